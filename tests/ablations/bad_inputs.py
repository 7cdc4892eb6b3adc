"""What a user may type that cannot be obeyed, and what the one line that it earns must contain.

A row is `words -> part of the line`; its words are read as a shell reads them, `\\x1b` is that character, and `{in}`
and the like are folders that tests/ablations/bad_files.py makes.
"""

from bad_commands import ROWS as OTHERS

ROWS = OTHERS | {
    "run sweep=moe_balance scale=smoke": r"""
optim.lr=1e400 -> optim.lr=inf: must be a finite number
optim.lr=-1 -> optim.lr=-1.0: must be at least 1e-12
optim.lr=1e-300 -> optim.lr=1e-300: must be at least 1e-12
optim.lr=.nan -> optim.lr=.nan: expected a number
optim.lr=0 -> optim.lr=0.0: must be at least 1e-12
optim.lr= -> optim.lr=: expected a number
'optim.lr= ' -> optim.lr=: expected a number
optim.lr=true -> optim.lr=true: expected a number
optim.lr=[0.001] -> optim.lr=[0.001]: expected a number
'optim.lr="0.001"' -> optim.lr=0.001: expected a number
optim.lr=0,001 -> optim.lr=0,001: several values for one key (multirun) are not used: arms are
optim.lr=0x10 -> optim.lr=0x10: expected a number
optim.lr=1e-3s -> optim.lr=1e-3s: expected a number
optim.warmup_fraction=1.5 -> optim.warmup_fraction=1.5: must be below 1
optim.clip_norm=nan -> optim.clip_norm=nan: must be a finite number
optim.clip_norm=1e-300 -> optim.clip_norm=1e-300: must be at least 0.0001
optim.eps=1e-300 -> optim.eps=1e-300: must be at least 1e-30
model.norm_eps=1e-46 -> model.norm_eps=1e-46: must be at least 1e-30
model.init_std=1e-300 -> model.init_std=1e-300: must be at least 1e-09
model.moe.routed_scaling_factor=1e-300 -> model.moe.routed_scaling_factor=1e-300: must be at least 1e-09
data.skills=[recall] data.skills_share=1e-300 -> data.skills_share=1e-300: must be at least 0.001
launch=slurm launch.workers=2 'launch.slurm={array: 1-5}' -> launch.slurm.array=1-5: jobs are an array already
launch=slurm launch.workers=2 'launch.slurm={ntasks-per-node: 2}' -> launch.slurm.ntasks-per-node=2: each job is
launch=slurm launch.workers=2 'launch.slurm={output: a.txt}' -> launch.slurm.output=a.txt: what a job prints is kept
optim.schedule=[cosine] -> optim.schedule=['cosine']: expected one of cosine, wsd, constant, v3
optim.schedule= -> optim.schedule=: expected one of cosine, wsd, constant, v3
optim.schedule=COSINE -> optim.schedule=COSINE: expected one of cosine, wsd, constant, v3; did you mean
optim=[] -> optim=[]: expected a group of keys; set one of them, such as optim.lr=VALUE
optim=null -> optim=null: expected a group of keys; set one of them, such as optim.lr=VALUE
optim= -> optim=: expected a group of keys; set one of them, such as optim.lr=VALUE
model= -> model=: expected a group of keys; set one of them, such as
model=null -> model=null: no such size
model=small,base -> model=small,base: several values for one key (multirun) are not used: arms are
model=[small] -> model=['small']: expected a group of keys; set one of them, such as
model=TINY -> model=TINY: no such size; did you mean tiny?
model.d_model=99999999999 -> model.d_model=99999999999: must be at most 10,000,000
model.n_layers=1e3 -> model.n_layers=1000.0: expected a whole number; write 1000
model.n_layers=10001 -> model.n_layers=10001: must be at most 10,000
model.vocab_size=1 -> model.vocab_size=1: must be at least 257 (256 bytes and end of text)
model.vocab_size=100000000000 -> model.vocab_size=100000000000: must be at most 100,000,000
model.attention.kind=gqa model.attention.n_heads=4 model.attention.n_kv_heads=3 -> model.attention.n_kv_heads=3: must
model.attention.kind=mla,gqa -> model.attention.kind=mla,gqa: several values for one key (multirun) are not
model.attention.kv_norm=maybe -> model.attention.kv_norm=maybe: expected true or false or null
model.attention.kind=flash -> model.attention.kind=flash: expected one of mla, mha, gqa, mqa; did you mean
model.attention.qk_norm=1 -> model.attention.qk_norm=1: expected true or false; write
model.attention=mla -> model.attention=mla: expected a group of keys; set one of them, such as
train.microbatches=2 model.pipeline.schedule=dualpipe model.pipeline.stages=2 -> model.pipeline.microbatches=2: dualpipe
model.moe.n_group=3 -> model.moe.n_group=3: must divide model.moe.n_routed_experts=8 evenly
model.moe.n_group=4 model.moe.topk_group=1 model.moe.top_k=4 -> model.moe.top_k=4: only 2 candidates are left in
model.moe.topk_group=2 -> model.moe.topk_group=2: a token cannot use more groups than there are
model.moe.scoring=sigmoidd -> model.moe.scoring=sigmoidd: expected one of sigmoid, softmax; did you mean
model.moe.balance.alpha=-1 -> model.moe.balance.alpha=-1.0: must not be negative
model.moe.balance.alpha=1e400 -> model.moe.balance.alpha=inf: must be a finite number
model.pipeline.schedule=dualpip -> model.pipeline.schedule=dualpip: expected one of none, gpipe, 1f1b
model.pipeline.schedule=1f1b -> model.pipeline.stages=1: model.pipeline.schedule=1f1b needs 2 or more
model.pipeline.stages=2 -> model.pipeline.stages=2: has no effect with model.pipeline.schedule=none; add
model.pipeline.microbatches=3 -> data.batch_size=8: must divide evenly into model.pipeline.microbatches=3; the
model.precision.recipe=fp8 -> model.precision.recipe=fp8: expected one of auto, fp32, bf16, fp8_block
model.precision.format.weight=e4m3 -> model.precision.format.weight=e4m3: has no effect with
model.rope.scaling=yarn model.rope.factor=1e400 -> model.rope.factor=inf: must be a finite number
model.dtype=fp32 -> model.dtype=fp32: expected one of auto, float32, bfloat16, float64; did you
data.source=txt -> data.source=txt: expected one of python_packages, stdlib, text, hf, domains
data.source=text data.path=/nowhere/at/all.txt -> data.path=/nowhere/at/all.txt: cannot be read (No such file or
data.source=text data.path=~nobodyx/a.txt -> data.path=~nobodyx/a.txt: cannot be read (No such file or directory)
data=txt -> data.source=txt: expected one of python_packages, stdlib, text, hf, domains, skill, problem; did you mean
eval.tasks=[piqa] eval.data_dir=~nobodyx/x -> eval.data_dir=~nobodyx/x: there is no such folder; name the one that the
track.checkpoints=true eval.tasks=[] -> track.checkpoints=true: a checkpoint is kept for what is asked of it, and
data.source=text data.path=/dev/null -> data.path=/dev/null: expected a file ending in .txt, .jsonl, .txt.gz
data.source=text data.path=/dev/zero -> data.path=/dev/zero: expected a file ending in .txt, .jsonl, .txt.gz
data.source=text data.path={in}/rows.csv -> data.path={in}/rows.csv: expected a file ending in .txt, .jsonl, .txt.gz
data.source=text data.path={in}/empty_folder -> data.path={in}/empty_folder: the folder holds no .txt, .jsonl
data.source=text data.path= -> data.source=text: needs data.path=FILE_OR_FOLDER
data.source=text data.path={in}/loop.txt -> data.path={in}/loop.txt: cannot be read (Too many levels of symbolic
data.source=text data.path={in}/corpus.txt data.max_bytes=0 -> data.max_bytes=0: must be above 0
data.source=hf data.name= -> data.source=hf: needs data.name=DATASET
data.source=hf data.name=/nowhere/set -> data.name=/nowhere/set: there is no such folder; name one that holds a dataset
data.source=hf data.name=./set:part -> data.name=./set:part: there is no such folder; name one that holds a dataset, fi
data.source=hf data.name={in}/empty_folder@new -> data.name={in}/empty_folder@new: a folder of this machine has no revis
data.source=skill data.skill=recal -> data.skill=recal: expected one of recall, automaton, grammar, names, star
data.source=skill data.skill=recall 'data.settings={keys: -1}' -> data.settings.keys=-1: must be at least 2
data.source=skill data.skill=recall 'data.settings={nokey: 1}' -> data.settings.nokey: no such key; did you mean keys?
data.source=skill data.skill=star 'data.settings={path: null}' -> data.settings.path=null: expected a list
data.source=skill data.skill=chain eval.tasks=[] data.max_bytes=9 -> data.max_bytes=9: is read only with text, data.sou
data.source=skill data.skill=chain eval.tasks=[] eval.mask_documents=true -> eval.mask_documents=true: is about document
data.source=skill data.skill=chain -> eval.tasks=python_cloze: takes lines of text, which data.source=skill has none of;
data.source=skill data.skill=chain eval.tasks=[wikitext] -> eval.tasks=wikitext: is text, of which data.source=skill has
data=problem data.problem=sums data.seq_len=64 eval.tasks=[mbpp_reference] -> eval.tasks=mbpp_reference: is text, of
eval=skills -> eval.tasks=skill_answers: text asks nothing; take data.source=skill or problem, or leave the task out
eval.data_dir={in} -> eval.data_dir={in}: eval.tasks=[python_bits_per_byte, python_cloze] has no task that reads it; add
data.source=skill data.skill=recall data.settings=[1] -> data.settings=[1]: expected a mapping or null
data.source=problem data.problem=sum -> data.problem=sum: expected one of sums, modchain, sorting, countdown; did you
data.source=problem data.problem=sums data.template=html -> data.template=html: expected one of plain, chat; did you
data.source=domains 'data.domains={a: x}' -> data.domains={'a': 'x'}: two or more; for one kind of text take
data.source=domains 'data.domains={a: /nowhere, b: /nowhere}' -> data.domains={a: /nowhere}: cannot be read (No such
data.source=domains 'data.weights={algebra: -1}' -> data.weights.algebra=-1.0: must be at least 0.001
data.source=domains 'data.weights={algebra: 1e308}' -> data.weights.algebra=1e+308: must be at most 1,000
grpo.temperature=1e-46 -> grpo.temperature=1e-46: must be at least 0.001
distil.answer_temperature=0 -> distil.answer_temperature=0.0: must be at least 0.001
data.source=domains 'data.domains={a: nosuchpackage/*.py, b: sympy/*.py}' -> data.domains={a: nosuchpackage/*.py}
data.seq_len=1 -> data.seq_len=1: must be at least 2, or no token has a next one
data.seq_len=33.0 -> data.seq_len=33.0: expected a whole number; write 33
train.microbatches=2 data.batch_size=3 -> data.batch_size=3: must divide evenly into train.microbatches=2; the next that
data.batch_size=1e10 -> data.batch_size=10000000000.0: expected a whole number; write 10000000000
data.fim_rate=2 -> data.fim_rate=2.0: must be at most 1
data.order=hard -> data.order=hard: expected one of mixed, easy_to_hard, hard_to_easy, staged; did
data.epochs=0 -> data.epochs=0: must be above 0
data.skills=[recal] -> data.skills=recal: expected some of recall, automaton, grammar, names, star
data.skills_share=0.9 -> data.skills_share=0.9: must be at most 0.5
data.mask_documents=1 -> data.mask_documents=1: expected true or false; write data.mask_documents=true
train.tokens=10 -> train.tokens=10 (x train.token_fraction=1.0): less than one batch, which is
train.tokens=1e6 -> train.tokens=1000000.0: expected a whole number; write 1000000
train.tokens=9223372036854775807 -> train.tokens=9223372036854775807: must be at most 1e+15
train.microbatches=1.5 -> train.microbatches=1.5: expected a whole number
train.device=gpu -> train.device=gpu: expected one of cpu, cuda; did you mean cpu?
train.validate_every=2 -> train.validate_every=2.0: must be at most 1
eval.split=train -> eval.split=train: expected one of validation, test
eval.tokens=1 -> eval.tokens=1: less than one sequence (data.seq_len=32)
eval.items=0 -> eval.items=0: must be above 0
eval.tasks=[hellaswg] -> eval.tasks=hellaswg: lm-eval has no such task; did you mean hellaswag?
eval.tasks=[]x -> eval.tasks=[]x: the value cannot be read; expected a list of texts
eval.tasks=[null] -> eval.tasks=[None]: expected a list of texts
eval.tasks=[piqa] eval.data_dir={in}/empty_folder -> eval.data_dir={in}/empty_folder: piqa needs
eval.tasks=[piqa] eval.data_dir={in}/corpus.txt -> eval.data_dir={in}/corpus.txt: there is no such folder
eval.tasks=[piqa] eval.data_dir=/nowhere -> eval.data_dir=/nowhere: there is no such folder
eval.tasks=[{in}/task_bad.yaml] -> eval.tasks={in}/task_bad.yaml: not a task of lm-eval (while parsing a flow
eval.tasks=[{in}/nothing.yaml] -> eval.tasks={in}/nothing.yaml: there is no such file, or it names no task
eval.tasks=[{in}/empty.yaml] -> eval.tasks={in}/empty.yaml: not a task of lm-eval (Expected YAML dict from
eval.tasks=[{in}/task_list.yaml] -> eval.tasks={in}/task_list.yaml: not a task of lm-eval (Expected YAML dict from
eval.tasks=[{in}/binary.yaml] -> eval.tasks={in}/binary.yaml: not a task of lm-eval (unacceptable character
eval.tasks=[{in}/task_tag.yaml] -> eval.tasks={in}/task_tag.yaml: not a task of lm-eval (could not determine a
eval.tasks=[{in}/task_include.yaml] -> eval.tasks={in}/task_include.yaml: not a task of lm-eval ([Errno 2] No such
eval.tasks=[{in}] -> eval.tasks={in}: lm-eval has no such task
eval.tasks=[humaneval] eval.run_model_code=yes -> eval.run_model_code=yes: expected true or false; write
eval.lengths=[32] -> eval.lengths[0]=32: must be at least 64
eval.lengths=[64,64] -> eval.lengths=[64, 64]: 64 stands in it twice; name each once
eval.lengths=[1e9] -> eval.lengths=[1000000000.0]: expected a list of whole numbers
eval.samples=8 -> eval.samples=8: is read by problem_samples only; add it to eval.tasks
eval.run_model_code=true -> eval.run_model_code=true: no task here runs programs; add humaneval or mbpp to
grpo.on=true -> grpo.on=true: data.source=python_packages asks nothing that is judged; take
distil.answers=teacher -> distil.answers=teacher, distil.loss=tokens: nobody teaches; name the stages
distil.loss=kl -> distil.loss=kl: expected one of tokens, forward_kl, reverse_kl
track.mode=on -> track.mode=on: expected one of auto, offline, online, disabled; did you mean
track.mode=offline track.project= -> track.project=: must not be empty
launch.workers=two -> launch.workers=two: expected a whole number or null
launch.progress=fancy -> launch.progress=fancy: expected one of auto, rich, plain, none
launch.expected_tokens_per_second=-5 -> launch.expected_tokens_per_second=-5.0: must be at least 1
seeds=[0.5] -> seeds=[0.5]: expected a whole number or a list of whole numbers or one of auto
seeds=auto,3 -> seeds=auto,3: several values for one key (multirun) are not used: arms are
seeds=99999 -> seeds=99999: must be at most 10,000
seeds=1e400 -> seeds=inf: expected a whole number or a list of whole numbers or one of auto or
seeds=true -> seeds=true: expected a whole number or a list of whole numbers or one of auto
seeds=[1,2 -> seeds=[1,2: the value cannot be read; expected a whole number or a list of
seeds=[a,b] -> seeds=['a', 'b']: expected a whole number or a list of whole numbers or one of
'seeds={a: 1}' -> seeds={'a': 1}: expected a whole number or a list of whole numbers or one of
search_points=999999 -> search_points=999999: must be at most 10,000
search_seeds=nan -> search_seeds=nan: expected a whole number or null
arms=none, -> arms=none,: the value cannot be read; expected text or a list of texts or null
arms=[none,] -> arms=[none,]: the value cannot be read; expected text or a list of texts or null
arms=[none,none] -> arms=['none', 'none']: none stands in it twice; name each once
arms=nonee -> arms=nonee: no such arm; did you mean none?
arms= -> arms=: no such arm
arms=[1,2] -> arms=[1, 2]: expected text or a list of texts or null
arms=* -> arms=*: no such arm
search=true -> search=true: expected one of published, fresh
raise_sizes=2 -> raise_sizes=2: expected true or false
dry_run= -> dry_run=: expected true or false
dry_run=ture -> dry_run=ture: expected true or false
yes_really=yes -> yes_really=yes: expected true or false; write yes_really=true
runs_dir=null -> runs_dir=null: expected text
results_dir= -> results_dir=: must not be empty
sweeps_dir={in}/corpus.txt -> sweeps_dir={in}/corpus.txt: no such folder
sweeps_dir={in}/nothing -> sweeps_dir={in}/nothing: no such folder
-v -> -v: no such option (settings are KEY=VALUE; --help lists them)
--help=yes -> --help=yes: no such option (settings are KEY=VALUE; --help lists them)
--cfg -> --cfg: expected `--cfg job`
--cfg all -> --cfg: expected `--cfg job`
--cfg job optim.lrr=1 -> optim.lrr: no such key; did you mean optim.lr?
hydra.verbose=true -> hydra.verbose: no such key
optim..lr=1 -> optim..lr: no such key; did you mean optim.lr?
.optim.lr=1 -> .optim.lr: no such key; did you mean optim.lr?
Optim.lr=1 -> Optim.lr: no such key; did you mean optim.lr?
'optim.lr =1e-3x' -> optim.lr =1e-3x: the value cannot be read; expected a number
'op\x1b[31mtim.lr=1' -> op\x1b[31mtim.lr: no such key; did you mean optim.lr?
'optim.lr=\x1b[31m1' -> optim.lr=\x1b[31m1: the value cannot be read; expected a number
öptim.lr=1 -> öptim.lr: no such key; did you mean optim.lr?
scale=cpu -> scale: given twice (smoke and cpu); keep one
seed=3 -> seed: no such key; did you mean seeds?
seeds=3 seeds=4 -> seeds: given twice (3 and 4); keep one
track.project=a/b -> track.project=a/b: a project's name has 1 to 128 characters, and none of
'track.entity=a b' -> track.entity=a b: a user's or team's name has letters, digits, ., - and _
results_dir={in}/corpus.txt -> results_dir={in}/corpus.txt: is a file; name the folder that results
""",
    "run": r"""
sweep -> sweep: expected KEY=VALUE (--help lists the keys)
sweep=moe_balance,attention scale=smoke -> sweep=moe_balance,attention: one sweep at a time; run the command once for
sweep=[moe_balance] scale=smoke -> sweep=[moe_balance]: one sweep at a time; run the command once for each
sweep=sweeps/moe_balance.yaml scale=smoke -> sweep=sweeps/moe_balance.yaml: no such sweep; did you mean moe_balance?
sweep=moe_balance.yaml scale=smoke -> sweep=moe_balance.yaml: no such sweep; did you mean moe_balance?
sweep=moe-balance scale=smoke -> sweep=moe-balance: no such sweep; did you mean moe_balance?
sweep=Moe_Balance scale=smoke -> sweep=Moe_Balance: no such sweep; did you mean moe_balance?
sweep= scale=smoke -> sweep=NAME is required
sweep=../../etc/passwd scale=smoke -> sweep=../../etc/passwd: no such sweep
sweep=/etc/passwd scale=smoke -> sweep=/etc/passwd: no such sweep
sweep=moe_balance scale= -> scale=: no such scale (scales: smoke, cpu, cpu_long, gpu, cluster)
sweep=moe_balance scale=Smoke -> scale=Smoke: no such scale; did you mean smoke? (scales: smoke, cpu, cpu_long
sweep=moe_balance scale=smoke.yaml -> scale=smoke.yaml: no such scale; did you mean smoke? (scales: smoke, cpu
sweep=moe_balance scale=../../x -> scale=../../x: no such scale (scales: smoke, cpu, cpu_long, gpu, cluster)
sweep=moe_balance scale=smoke,cpu -> scale=smoke,cpu: one scale at a time; run the command once for each
moe_balance scale=smoke -> moe_balance: expected KEY=VALUE; did you mean sweep=moe_balance? (--help lists
moe_balance -> moe_balance: expected KEY=VALUE; did you mean sweep=moe_balance? (--help lists
sweep = moe_balance -> sweep: expected KEY=VALUE (--help lists the keys)
--sweep moe_balance -> --sweep: no such option; did you mean sweep=VALUE? (settings are KEY=VALUE
'' -> : expected KEY=VALUE (--help lists the keys)
'   ' -> : expected KEY=VALUE (--help lists the keys)
= -> =: expected KEY=VALUE (--help lists the keys)
sweep=big sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/big.yaml: 2,000,011 bytes; a sweep's file has at most
sweep=notes sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/notes.yaml: Just a note.: no such key
sweep=empty sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/empty.yaml: question: missing; say in a sentence what
sweep=binary sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/binary.yaml: cannot be read ('utf-8' codec can't
sweep=link sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/link.yaml: cannot be read ([Errno 2] No such file or
sweep=folder sweeps_dir={in}/sweeps scale=smoke -> {in}/sweeps/folder.yaml: cannot be read ([Errno 21] Is a directory
""",
}
