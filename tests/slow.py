"""Which tests run with `-m slow` alone, and what stands in their place in every run.

What is listed costs seconds to minutes, and repeats in real size, with real processes or for further settings what
cheaper tests hold in their kind. A name is how those of tests begin. Of sweeps see SLOW in ablations/test_sweeps.py.
"""

SLOW: dict[str, dict[str, str]] = {
    "models/pipeline/test_ranks.py": {
        "test_schedules_on_real_ranks": "schedules in one process; one on real ranks (ablations/test_ranks_command)",
    },
    "models/pipeline/test_v3_bubble.py": {
        "test_what_overlapping_gains": "the published step, and what each reading gives",
    },
    "models/training/test_compiled.py": {
        "test_the_kernels_too": "what torch traces, differentiates and guards, for the same models",
        "test_the_losses_are_those_of_the_model_as_it_is[dense": "the same with MLA and experts",
    },
    "models/test_their_tools.py": {
        "test_a_template_goes_there_and_back[plain]": "the chat template",
        "test_transformers_chats_as_we_answer[plain]": "the chat template",
    },
    "ablations/audit/test_known.py": {
        "test_transformers_models_pass_from_a_folder[Mixtral]": "DeepseekV3 and Llama",
    },
    "ablations/launch/test_away.py": {
        "test_a_branch_is_trained_away": "one that died away, and goes on elsewhere",
    },
    "ablations/launch/test_environment.py": {
        "test_a_trial_is_the_same_under_any_launcher": "that no cluster is found, whatever is set",
    },
    "ablations/launch/test_lean.py": {
        "test_lightning_comes_without_packages_that_no_training_needs[whole-": "the lean import",
    },
    "ablations/show/test_published.py": {
        "test_pages_and_figures": "the tables of all that is published",
    },
    "ablations/test_run.py": {
        "test_kill_9_of_worker_and_scheduler": "the same of forks, with more kills (ablations/test_endurance)",
        "test_two_sweeps_with_the_same_trials": "two schedulers at once",
        "test_a_diverged_trial_is_shown": "the same in one process (ablations/sweep/test_conductor)",
    },
    "ablations/trial/test_devices.py": {
        "test_after_kill_9": "interrupted trials, and a rank that is killed",
        "test_stages_go_on_from_one_another[1.0]": "from a stage that was stopped; from weights on one device",
    },
    "ablations/trial/test_measures.py": {
        "test_a_ramped_trial_goes_on_bit_for_bit[2]": "another step",
        "test_a_ramped_trial_goes_on_bit_for_bit[11]": "another step",
    },
    "ablations/trial/test_rewards.py": {
        "test_killed_among_its_rewards_it_goes_on_bit_for_bit[8]": "other steps",
        "test_killed_among_its_rewards_it_goes_on_bit_for_bit[9]": "other steps",
    },
    "ablations/trial/test_train.py": {
        "test_a_trial_killed_in_any_stage_goes_on_bit_for_bit[5-3]": "other steps",
        "test_a_trial_killed_in_any_stage_goes_on_bit_for_bit[19-18]": "other steps",
        "test_a_trial_killed_in_any_stage_goes_on_bit_for_bit[36-30]": "other steps",
    },
    "tasks/test_programs.py": {
        "test_reference_solutions_pass_and_wrong_ones_fail[mbpp": "those of HumanEval",
    },
    "test_on_gpu.py": {
        "test_it_does_without": "its sections, one at a time; the same trial with these packages",
    },
}
