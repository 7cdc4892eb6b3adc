"""The rows of tests/ablations/bad_inputs.py of the smaller commands."""

ROWS = {
    "compare": r"""
moe_balance/cpu moe_balance/gpu -> moe_balance/gpu: no sweep, arm or trial of this name
moe_balance/cpu/bias moe_balance/cpu/nobody -> moe_balance/cpu/nobody: no such arm
moe_balance/cpu/bias -> compare: expected two names, as in `moe_balance/cpu/bias moe_balance/cpu/none`
0123456789 moe_balance -> 0123456789: no such trial
ffffff ffffff -> ffffff: no such trial
{in}/corpus.txt {in}/corpus.txt -> {in}/corpus.txt: no sweep, arm or trial of this name
'' '' -> compare: expected two names, as in `moe_balance/cpu/bias moe_balance/cpu/none`
[red]x moe_balance/cpu -> [red]x: no sweep, arm or trial of this name
moe_balance/cpu moe_balance/cpu extra -> compare: expected two names, as in `moe_balance/cpu/bias
--a --b -> --a: no sweep, arm or trial of this name
{in}/broken/broken_plan/cpu moe_balance/cpu -> {broken}/broken_plan/cpu/plan.json: not readable as JSON (Expecting
{in}/broken/deep_plan/cpu moe_balance/cpu -> {broken}/deep_plan/cpu/plan.json: not readable as JSON (nested too
{in}/broken/nan_plan/cpu moe_balance/cpu -> {broken}/nan_plan/cpu/plan.json: not readable as JSON (NaN is no number of
""",
    "dashboard": r"""
sweep= -> sweep: name the sweep to show, as in `python -m ablations.dashboard
sweep=a/b -> sweep=a/b: expected the name of a folder under runs
sweep=.. -> sweep=..: expected the name of a folder under runs
sweep=moe_balance scale= -> scale=: expected the name of a folder under runs
sweep=moe_balance scale=.. runs_dir={runs} -> scale=..: expected the name of a folder under {runs}
sweep=moe_balance run=x runs_dir={runs} -> sweep=moe_balance: no run x under {runs}; take another scale or run (there is
sweep=moe_balance report=1 runs_dir={runs} -> report=1: expected true or false
sweep=moe_balance entity=é runs_dir={runs} -> entity=é: a user's or team's name has letters, digits
sweep=moe_balance entity= runs_dir={runs} -> entity=: must not be empty
sweep=moe_balance project= runs_dir={runs} -> project=: must not be empty
sweep=moe_balance runs_dir={in}/corpus.txt -> sweep=moe_balance: no run cpu under {in}/corpus.txt (`python
sweep=deep_plan runs_dir={broken} -> {broken}/deep_plan/cpu/plan.json: not readable as JSON (nested too deeply)
sweep=broken_plan runs_dir={broken} -> {broken}/broken_plan/cpu/plan.json: not readable as JSON (Expecting property
""",
    "reproduce": r"""
/nowhere -> /nowhere: neither the folder of a published result nor a zip file of one
{in}/corpus.txt -> {in}/corpus.txt: neither the folder of a published result nor a zip file of one
/dev/zero -> /dev/zero: neither the folder of a published result nor a zip file of one
{in}/empty.zip -> {in}/empty.zip: neither the folder of a published result nor a zip file of one
{in}/empty_folder -> {in}/empty_folder: has no manifest.json, so it is no published result (`python
{in}/slip.zip -> {in}/slip.zip: holds no manifest.json beside its plan.json, so it is no
{in}/two.zip -> {in}/two.zip: holds 2 results; name a folder of one
{in}/badname.zip -> {in}/badname.zip: cannot be unpacked ('utf-8' codec can't decode byte 0xff in
{in}/lzma.zip -> {in}/lzma.zip: cannot be unpacked (Corrupt input data)
{in}/deep -> {in}/deep/manifest.json: not readable as JSON (nested too deeply); restore it
{published} seed=x -> seed=x: expected a whole number, got text
{published} seed=1.5 -> seed=1.5: expected a whole number
{published} quick=maybe -> quick=maybe: expected true or false, got text
{published} tables_only=1 -> tables_only=1: expected true or false
{published} code=there -> code=there: expected one of published, here; did you mean here?
{published} workers=1e400 -> workers=1e400: expected a whole number, got text
{published} workers=two -> workers=two: expected a whole number, got text
{published} {published} -> reproduce: expected one result, as in results/moe_balance/cpu, not 2
quick=true -> reproduce: expected one result, as in results/moe_balance/cpu, not 0
{published} progress=fancy -> progress=fancy: expected one of auto, rich, plain, none
{published} --quick -> reproduce: expected one result, as in results/moe_balance/cpu, not 2
""",
    "eval": r"""
checkpoint= -> checkpoint=: expected a path; leave the key out for its default
checkpoint={in}/corpus.txt -> checkpoint={in}/corpus.txt: there is no such folder
checkpoint={in}/empty_folder -> checkpoint={in}/empty_folder: not a checkpoint, it has no config.json and no
checkpoint={ckpt}/deep -> checkpoint={ckpt}/deep: unreadable (nested too deeply); it is truncated or not
checkpoint={ckpt}/list -> checkpoint={ckpt}/list: config.json holds no keys; copy the whole folder again
checkpoint={ckpt}/number -> checkpoint={ckpt}/number: unreadable (a whole number of 5,000 digits
checkpoint={ckpt}/huge -> checkpoint={ckpt}/huge: weights and config.json do not fit (config.json
checkpoint={ckpt}/pickle -> checkpoint={ckpt}/pickle: not a checkpoint, it has no model.safetensors
checkpoint={ckpt}/cut -> checkpoint={ckpt}/cut: unreadable (Error while deserializing: header too
checkpoint={ckpt}/nan -> checkpoint={ckpt}/nan: unreadable (NaN is no number of JSON); it is truncated
checkpoint={ckpt}/binary -> checkpoint={ckpt}/binary: unreadable ('utf-8' codec can't decode byte 0x80 in
checkpoint={ckpt}/emptyconfig -> checkpoint={ckpt}/emptyconfig: unreadable (Expecting value: line 1 column 1
checkpoint={in}/empty_folder eval.items=0 -> eval.items=0: must be above 0
checkpoint={in}/empty_folder eval.items=2020-02-30 -> eval.items=2020-02-30: not a value (numbers, words, null, or a
checkpoint={in}/empty_folder 'eval.tasks=[!!bool x]' -> eval.tasks=[!!bool x]: not a value (numbers, words, null, or a
checkpoint={in}/empty_folder 'eval.tasks=[!!timestamp x]' -> eval.tasks=[!!timestamp x]: not a value (numbers, words, n
checkpoint={in}/empty_folder eval.items=1e400 -> eval.items=1e400: expected a whole number, got text
checkpoint={in}/empty_folder eval.tasks=[] -> checkpoint={in}/empty_folder: not a checkpoint, it has no config.json
checkpoint={in}/empty_folder eval.tasks= -> eval.tasks=null: expected a list
checkpoint={in}/empty_folder 'eval.tasks={a: 1}' -> eval.tasks={'a': 1}: expected a list
checkpoint={in}/empty_folder eval.tasks=[[a]] -> eval.tasks[0]=['a']: expected text
checkpoint={in}/empty_folder eval.split=train -> eval.split=train: expected one of validation, test
checkpoint={in}/empty_folder data.settings=[1] -> data.settings=[1]: expected a mapping
checkpoint={in}/empty_folder eval.lengths=[128] -> eval.lengths: no such key
checkpoint={in}/empty_folder 'data.weights={a: -1}' -> data.weights.a=-1.0: must be at least 0.001
checkpoint={in}/empty_folder 'data.seq_len=!!python/object/apply:os.system' -> data.seq_len=!!python/object/apply:os.s
checkpoint={in}/empty_folder 'eval.items=!!python/object/apply:os.system [echo]' -> eval.items=!!python/object/apply:o
checkpoint={in}/empty_folder device=cuda:0 -> device=cuda:0: expected one of cpu, cuda; did you mean cuda?
checkpoint={in}/empty_folder device= -> device=: expected one of cpu, cuda
checkpoint={in}/empty_folder device=CPU0 -> device=CPU0: expected one of cpu, cuda; did you mean cpu?
checkpoint={in}/empty_folder runs_dir= -> runs_dir=: expected a path; leave the key out for its default
checkpoint={in}/empty_folder eval.run_model_code=1 -> eval.run_model_code=1: expected true or false
checkpoint={in}/empty_folder model.d_model=3 -> model.d_model: no such key; did you mean eval.run_model_code?
--checkpoint={in}/empty_folder -> --checkpoint: no such key; did you mean checkpoint?
checkpoint={in}/empty_folder checkpoint=x -> checkpoint: given twice; keep one
checkpoint={in}/empty_folder eval.tasks=[a -> eval.tasks=[a: not a value (numbers, words, null, or a list like [a,b])
eval= -> eval=: no such preset (presets: quick, skills, answers, small_lm, v3_report
eval=quick -> checkpoint: missing; give the folder of a checkpoint, checkpoint=PATH
checkpoint={in}/empty_folder eval.tasks={deep} -> eval.tasks=[[[[[[[[
""",
    "audit": r"""
{in}/corpus.txt -> {in}/corpus.txt: there is no such folder; name one, or package.module:factory
{in}/empty_folder -> {in}/empty_folder: holds no config.json, so it is no Hugging Face folder
{ckpt}/deep -> {ckpt}/deep: config.json is not readable as JSON (nested too deeply)
{ckpt}/list -> {ckpt}/list: transformers cannot load it as a causal language model
{ckpt}/number -> {ckpt}/number: config.json is not readable as JSON (a whole number of 5,000 digits
{ckpt}/huge -> checkpoint={ckpt}/huge: weights and config.json do not fit (config.json
{ckpt}/binary -> {ckpt}/binary: config.json is not readable as JSON ('utf-8' codec can't decode
no_such_module_here:f -> no_such_module_here:f: no module no_such_module_here; start from the folder
os:nothing_here -> os:nothing_here: os (frozen) has no attribute nothing_here; did you mean
os.path: -> os.path:: expected package.module:factory, or a folder
:f -> :f: expected package.module:factory, or a folder
a:b:c -> a:b:c: no module a; start from the folder that holds it, or name that folder in
os:sep -> os:sep: sep is str; expected a function that returns a model
math:pi -> math:pi: pi is float; expected a function that returns a model
os:getcwd -> os:getcwd: returns str; expected a torch.nn.Module
length=32 -> audit: expected one TARGET, package.module:factory or a folder, not 0
{in}/empty_folder rows=0 -> rows=0: must be at least 1
{in}/empty_folder rows=1e400 -> rows=1e400: expected a whole number, got text
{in}/empty_folder length=4096 -> length=4096: must be at most 1,024
{in}/empty_folder vocab_size=1 -> vocab_size=1: must be at least 2
{in}/empty_folder fresh=1 -> fresh=1: expected true or false
{in}/empty_folder format=yaml -> format=yaml: expected one of text, json
{in}/empty_folder --json -> audit: expected one TARGET, package.module:factory or a folder, not 2
""",
    "timeline": r"""
schedule= -> schedule=: expected some of gpipe, 1f1b, interleaved_1f1b, zb1p, zbv, dualpipe
schedule=1f1b stages=1e400 microbatches=8 -> stages=1e400: expected a whole number, got text
schedule=1f1b stages=99999999999999999999 microbatches=8 -> stages: a whole number has at most 64 bits, this one 67
schedule=1f1b stages=8 microbatches=1000000000 -> microbatches=1000000000: with stages=8 they are 8,000,000,000
schedule=1f1b stages=true microbatches=8 -> stages=true: expected a whole number
schedule=1f1b,,gpipe stages=8 microbatches=8 -> schedule=: expected some of gpipe, 1f1b, interleaved_1f1b, zb1p, zbv
schedule=1F1B stages=8 microbatches=8 -> schedule=1F1B: expected some of gpipe, 1f1b, interleaved_1f1b, zb1p, zbv
schedule=[1f1b] stages=8 microbatches=8 -> schedule=[1f1b]: expected some of gpipe, 1f1b, interleaved_1f1b, zb1p, zbv
schedule=1f1b stages=8 microbatches=8 f=1e400 -> f=inf: must be a finite number
schedule=1f1b stages=8 microbatches=8 f=-1 -> f=-1.0: must be above 0
schedule=1f1b stages=8 microbatches=8 f=1e308 -> f=1e+308: must be at most
schedule=1f1b stages=8 microbatches=8 out= -> out=: expected a path; leave the key out for its default
schedule=1f1b stages=8 microbatches=8 out={in}/corpus.txt/a.svg -> {in}/corpus.txt: Not a directory
schedule=1f1b stages=8 microbatches=8 out=.svg -> out=.svg: an SVG is written, so the name must end in .svg
schedule=1f1b stages=8 microbatches=8 out={in}/folder.svg -> {in}/folder.svg: Is a directory
schedule=1f1b stages=8 microbatches=8 out=./a.svg memory=a.svg -> memory=a.svg: out has the same name; give each
schedule=1f1b stages=8 microbatches=8 colour=red -> colour: no such key
1f1b -> 1f1b: no such key
""",
    "ranks": r"""
arm=gpipe_p4_m8 -> sweep=NAME is required
sweep=pipeline -> arm=: no such arm
sweep=pipeline scale=smoke arm= -> arm=: no such arm
sweep=pipeline scale=smoke arm=gpipe_p4_m8 seed= -> seed=null: expected a whole number
sweep=pipeline scale=smoke arm=gpipe_p4_m8 seed=1.5 -> seed=1.5: expected a whole number
sweep=pipeline scale=smoke arm=gpipe_p4_m8 seed=² -> seed=²: expected a whole number
sweep=pipeline scale=smoke arm=gpipe_p4_m8 seed=9999999999 -> seed=9999999999: must be at most 999,999,999
sweep=pipeline scale=smoke arm=gpipe_p4_m8 runs_dir={in}/corpus.txt -> runs_dir={in}/corpus.txt: {in}/corpus.txt is not
sweep=pipeline scale=smoke arm=gpipe_p4_m8 arm=none -> arm: given twice; keep one
sweep=pipelin scale=smoke arm=gpipe_p4_m8 -> sweep=pipelin: no such sweep; did you mean pipeline?
sweep=pipeline scale=smoke arm=control -> arm=control: no such arm
sweep=moe_balance scale=smoke arm=bias -> arm=bias: has no pipeline
sweep=pipeline scale=smoke seed -> seed: expected seed=VALUE
sweep=pipeline scale=smoke arm -> arm: expected arm=VALUE
""",
    "cost": r"""
tinny -> size=tinny: no such size; did you mean tiny?
'' -> size=: no such size
deepseek_v4 -> size=deepseek_v4: no such size; did you mean deepseek_v3?
--size=tiny -> size=--size=tiny: no such size; did you mean tiny?
size=tiny -> size=size=tiny: no such size; did you mean tiny?
../tiny -> size=../tiny: no such size; did you mean tiny?
tiny smal -> size=smal: no such size; did you mean small?
""",
    "convert": r"""
to-hf -> the following arguments are required: source, out (expected: to-hf CHECKPOINT
to_hf a b -> argument direction: invalid choice: 'to_hf' (choose from 'to-hf', 'from-hf')
to-hf /nowhere {in}/out -> checkpoint=/nowhere: config.json is missing; name a folder with config.json in
to-hf {in}/empty_folder {in}/out -> checkpoint={in}/empty_folder: config.json is missing; name a folder with
to-hf {in}/corpus.txt {in}/out -> checkpoint={in}/corpus.txt: config.json is missing; name a folder with
to-hf {ckpt}/deep {in}/out -> checkpoint={ckpt}/deep: unreadable (nested too deeply); it is truncated or not
to-hf {ckpt}/number {in}/out -> checkpoint={ckpt}/number: unreadable (a whole number of 5,000 digits
to-hf {ckpt}/pickle {in}/out -> checkpoint={ckpt}/pickle: a pickle can run code when it is read; only
to-hf {ckpt}/huge {in}/out -> checkpoint={ckpt}/huge: weights and config.json do not fit (config.json
from-hf /nowhere {in}/out -> /nowhere/config.json: is missing; name a folder with config.json and
from-hf {in}/empty_folder {in}/out -> {in}/empty_folder/config.json: is missing; name a folder with config.json and
from-hf {in}/corpus.txt {in}/out -> {in}/corpus.txt/config.json: is missing; name a folder with config.json and
from-hf {ckpt}/deep {in}/out -> {ckpt}/deep/config.json: unreadable (nested too deeply)
from-hf {ckpt}/list {in}/out -> {ckpt}/list/config.json: expected a group of keys
from-hf {hf}/slip {in}/out -> {hf}/slip: ../other.safetensors: is missing, and model.safetensors.index.json
from-hf {hf}/absolute {in}/out -> {hf}/absolute: {in}/other.safetensors: is missing, and
from-hf {hf}/cut {in}/out -> {hf}/cut: unreadable (Error while deserializing header: header too small); it
from-hf {hf}/hugelayers {in}/out -> {hf}/hugelayers: model.n_layers=10000000: must be at most 10,000
from-hf {hf}/hugewidth {in}/out -> {hf}/hugewidth: config.json: describes 107,750,049,344 parameters, and the
from-hf {hf}/strings {in}/out -> {hf}/strings: model.d_model=128: expected a whole number, got text
from-hf {hf}/nan {in}/out -> {hf}/nan/config.json: unreadable (NaN is no number of JSON)
to-hf {ckpt}/cut {in} -> OUT={in}: exists and is not empty; name a new folder
to-hf {ckpt}/cut {in}/corpus.txt -> OUT={in}/corpus.txt: exists and is not empty; name a new folder
to-hf {ckpt}/cut {in}/corpus.txt/out -> OUT={in}/corpus.txt/out: cannot be made (Not a directory); name a folder
to-hf {ckpt}/cut /proc/x -> OUT=/proc/x: cannot be made (No such file or directory); name a folder elsewhere
to-hf a b c -> unrecognized arguments: c (expected: to-hf CHECKPOINT OUT, or from-hf DIR OUT
to-hf a b --fast -> unrecognized arguments: --fast (expected: to-hf CHECKPOINT OUT, or from-hf DIR
sideways a b -> argument direction: invalid choice: 'sideways' (choose from 'to-hf', 'from-hf')
""",
    "report": r"""
sweep= -> sweep: name the sweep to report on, as in `python -m ablations.report
sweep=../../etc -> sweep=../../etc: expected a name, as in sweep=moe_balance scale=cpu, and no path
sweep=/etc -> sweep=/etc: expected a name, as in sweep=moe_balance scale=cpu, and no path
sweep=moe_balance scale=../x -> scale=../x: expected a name, as in sweep=moe_balance scale=cpu, and no path
sweep=moe_balance scale= -> scale=: expected a name, as in sweep=moe_balance scale=cpu, and no path
sweep=moe_balance scale=/etc -> scale=/etc: expected a name, as in sweep=moe_balance scale=cpu, and no path
sweep=moe_balanse runs_dir={runs} -> sweep=moe_balanse: no run cpu under {runs}; did you mean
sweep=moe_balance scale=gpu runs_dir={runs} -> sweep=moe_balance: no run gpu under {runs}; take another scale or run
sweep=nowhere run=cpu runs_dir=/nowhere -> sweep=nowhere: no run cpu under /nowhere
sweep=moe_balance scale=foo runs_dir={runs} -> sweep=moe_balance: no run foo under {runs}; take another scale or run
sweep=moe_balance run=cpu@gone runs_dir=/nowhere -> sweep=moe_balance: no run cpu@gone under /now
sweep=moe_balance run=a/b runs_dir={runs} -> run=a/b: expected the name of a folder under {runs}/moe_balance
sweep=moe_balance run= runs_dir={runs} -> run=: expected the name of a folder under {runs}/moe_balance
sweep=moe_balance run=.hidden runs_dir={runs} -> run=.hidden: expected the name of a folder under {runs}/moe_balance
sweep=moe_balance runs_dir={in}/corpus.txt -> runs_dir={in}/corpus.txt: is a file; name a folder
sweep=moe_balance runs_dir=/nowhere -> sweep=moe_balance: no run cpu under /nowhere (`python -m
sweep=moe_balance runs_dir= -> runs_dir=: expected a path; leave the key out for its default
sweep=moe_balance publish=yes runs_dir={runs} -> publish=yes: expected one of false, true, partial, again
sweep=moe_balance publish= runs_dir={runs} -> publish=: expected one of false, true, partial, again
sweep=moe_balance publish=[true] runs_dir={runs} -> publish=[true]: expected one of false, true, partial, again; did
sweep=moe_balance publish=again results_dir={in}/nothing -> {in}/nothing/moe_balance/cpu: holds no plan.json, so it
sweep=moe_balance publish=again results_dir={in}/corpus.txt -> results_dir={in}/corpus.txt: is a file; name a folder
""",
}
