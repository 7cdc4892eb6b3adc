"""What a sweep's file may say that cannot be obeyed: a row is what it says otherwise than the least sweep
(tests/ablations/least_sweep.py), and a part of the line that this earns.
"""

ROWS = r"""
{baseline: [short, long]} -> mine.yaml: baseline=['short', 'long']: expected text
{baseline: null} -> mine.yaml: baseline=null: expected text
{baseline: 3} -> mine.yaml: baseline=3: expected text
{arms: [short, long]} -> mine.yaml: arms=['short', 'long']: expected a mapping
{arms: null} -> mine.yaml: arms=null: expected a mapping
{arms: {short: null, long: {set: {optim.eps: 0.001}}}} -> mine.yaml: arms.short=None: expected a group of keys
{arms: {short: {}, long: {set: [optim.eps]}}} -> mine.yaml: arms.long.set=['optim.eps']: expected a mapping
{arms: {short: {}, long: {set: {optim.eps: yes}}}} -> mine.yaml arm long: optim.eps=true: expected a number
{arms: {short: {}, long: {set: {optim.eps: .nan}}}} -> mine.yaml arm long: optim.eps=nan: must be a finite number
{arms: {short: {}, long: {set: {optim.eps: .inf}}}} -> mine.yaml arm long: optim.eps=inf: must be a finite number
{arms: {short: {}, long: {set: {'': 1}}}} -> mine.yaml arm long: : not a key of a trial; an arm can set model.*
{arms: {short: {}, long: {set: {'optim.eps ': 0.1}}}} -> mine.yaml arm long: optim.eps : no such key; did you mean
{arms: {short: {}, long: {set: {seeds: 3}}}} -> mine.yaml arm long: seeds: not a key of a trial; an arm can set
{arms: {short: {}, long: {set: {model: tiny}}}} -> mine.yaml arm long: model is a group: write its keys out, such as
{arms: {short: {}, long: {about: 3, set: {optim.eps: 0.1}}}} -> mine.yaml: arms.long.about=3: expected text
{arms: {short: {}, long: {set: {optim.eps: 0.1}, onto: shrot}}} -> mine.yaml: arms.long.onto=shrot: no such arm; did
{arms: {short: {}, long: {set: {optim.eps: 0.1}, onto: long}}} -> mine.yaml: arms.long.onto=long: the arms long stand
{arms: {short: {}, long: {set: {optim.eps: 0.1}, optional: 1}}} -> mine.yaml: arms.long.optional=1: expected true or
{arms: {short: {}, long: {set: {optim.eps: 0.1}, design: brnach}}} -> mine.yaml: arms.long.design=brnach: expected
{arms: {short: {}, long: {set: {optim.eps: 0.1}, design: branch}}} -> mine.yaml: branch_at=null: arms of
{arms: {short: {}, long: {set: {optim.eps: 0.1}, stages: [sft]}}} -> mine.yaml: arms.long.stages: sft: no such stage
{arms: {short: {}, "lo\ng": {set: {optim.eps: 0.1}}}} -> mine.yaml: arms.lo g: a name has only letters, digits, - and
{arms: {short: {}, "lo ng": {set: {optim.eps: 0.1}}}} -> mine.yaml: arms.lo ng: a name has only letters, digits, -
{arms: {short: {}, "": {set: {optim.eps: 0.1}}}} -> mine.yaml: arms.: a name has only letters, digits, - and _, and
{arms: {short: {}, "\e[31m": {set: {optim.eps: 0.1}}}} -> mine.yaml: arms.\x1b[31m: a name has only letters, digits
{arms: {short: {}, "<b>": {set: {optim.eps: 0.1}}}} -> mine.yaml: arms.<b>: a name has only letters, digits, - and _
{question: [a]} -> mine.yaml: question=['a']: expected text
{question: "   "} -> mine.yaml: question: missing; say in a sentence what this sweep asks
{source: 3} -> mine.yaml: source=3: expected text
{design: branch} -> mine.yaml: branch_at=null: arms of design=branch need a share of the
{design: scratch, branch_at: 0.5} -> mine.yaml: branch_at=0.5: no arm has design=branch; add that, or leave
{design: branch, branch_at: 1.0} -> mine.yaml: branch_at=1.0: must be below 1
{design: branch, branch_at: 50%} -> mine.yaml: branch_at=50%: expected a number, got text
{horizons: [0.5, 0.333333]} -> mine.yaml: horizons=[0.5, 0.333333]: 0.333333 is no whole percentage; metrics
{horizons: [2]} -> mine.yaml: horizons[0]=2.0: must be below 1
{horizons: 0.5} -> mine.yaml: horizons=0.5: expected a list
{trunk: {data.seq_len: 64}} -> mine.yaml: trunk={'data.seq_len': 64}: no arm branches off it; add
{stages: {pre: {}}} -> mine.yaml: arms.long.stages: missing; name one of this sweep's or more (pre)
{stages: [pre, sft]} -> mine.yaml: stages=['pre', 'sft']: expected a mapping
{stages: {pre: {}, sft: {}}, arms: {short: {stages: [sft, pre]}, long: {stages: [pre, pre]}}} -> mine.yaml
{teacher: [nobody]} -> mine.yaml: teacher: nobody: no such stage (stages: none)
{doses: {d: {key: optim.lrr, arms: [short, long]}}} -> mine.yaml: doses.d.key=optim.lrr: not a key of a number; did
{doses: {d: {key: optim.eps, arms: [short, nobody]}}} -> mine.yaml: doses.d: nobody: no such arm
{doses: {d: {key: optim.eps, arms: [short]}}} -> mine.yaml: doses.d: ['short']: one point has no slope; name two arms
{doses: {short: {key: optim.eps, arms: [short, long]}}} -> mine.yaml: doses.short: arms.short is called short too
{doses: {d: {key: optim.eps, arms: [short, long], log: 1}}} -> mine.yaml: doses.d.log=1: expected true or false
{doses: {"a b": {key: optim.eps, arms: [short, long]}}} -> mine.yaml: doses.a b: a name has only letters, digits, -
{doses: {d: {key: model.moe.balance.alpha, arms: [short, long]}}} -> : nothing reads model.moe.balance.alpha in short
{arms: {short: {}, long: {set: {model.moe.balance.alpha: 1}}}} -> arm long: model.moe.balance.alpha=1: is read only
{arms: {short: {}, long: {set: {optim.eps: 0.1}}}, control: {model.moe.balance.alpha: 1}} -> mine.yaml control: model.m
{arms: {short: {}, long: {search: {model.moe.balance.alpha: [0.1]}}}} -> arms.long.search.model.moe.balance.alpha: is r
{contrasts: {c: {weights: {short: 1, long: 1}}}} -> mine.yaml: contrasts.c.weights: add up to 2; those of a contrast
{contrasts: {c: {weights: {short: 1, nobody: -1}}}} -> mine.yaml: contrasts.c.weights.nobody: no such arm
{contrasts: {c: {weights: {short: .nan, long: -1}}}} -> mine.yaml: contrasts.c.weights.short=nan: must be a finite
{contrasts: {"<i>": {weights: {short: 1, long: -1}}}} -> mine.yaml: contrasts.<i>: a name has only letters, digits, -
{contrasts: {"a|b": {weights: {short: 1, long: -1}}}} -> mine.yaml: contrasts.a|b: a name has only letters, digits, -
{factorial: {factors: {a: {optim.eps: 0.1}}, generators: a}} -> mine.yaml: factorial.generators=a: 1 words for 1
{factorial: {factors: {a: {optim.eps: 0.1}, b: {optim.beta1: 0.8}}, generators: 'a b c'}} -> mine.yaml
{factorial: {factors: {a: {model.moe.balance.alpha: 1}, b: {optim.eps: 1}}, generators: a b}} -> nothing reads it in
{factorial: {factors: {a: {optim.eps: 0.1}, b: {optim.beta1: 0.8}}, generators: 'a __import__("os")'}} -> mine.yaml
{factorial: {factors: {a: {optim.eps: 0.1}, b: {optim.beta1: 0.8}}, generators: 'a b+'}} -> mine.yaml
{design: horizon} -> mine.yaml: design=horizon: is scratch or branch; a horizon is written as `horizons: [0.5]`
{design: leave_one_out} -> mine.yaml: design=leave_one_out: is scratch or branch; a leave_one_out is written as an arm
{matched: [total_params]} -> mine.yaml: matched=['total_params']: expected a group of keys
{matched: {tolerance: 1%}} -> mine.yaml: matched.tolerance=1%: expected a number, got text
{search: {keys: [optim.lr]}} -> mine.yaml: search.keys=['optim.lr']: expected a mapping
{search: {keys: {optim.lr: 0.001}}} -> mine.yaml: search.keys.optim.lr=0.001: expected a list
{search: {keys: {optim.schedule: [1.0, 2.0]}}} -> mine.yaml search.keys: optim.schedule=1.0: expected one of cosine
{search: {keys: {optim.lr: [0.001, .inf]}}} -> mine.yaml: search.keys.optim.lr[1]=inf: must be a finite number
{search: {seeds: 3}} -> mine.yaml: search.seeds=3: expected a list
{search: {seeds: [-1]}} -> mine.yaml: search.seeds[0]=-1: must not be negative
{seeds: 2.5} -> mine.yaml: seeds=2.5: expected a whole number
{seeds: [1, 2]} -> mine.yaml: seeds=[1, 2]: expected a whole number
{seeds: true} -> mine.yaml: seeds=true: expected a whole number
{first_seed: -1} -> mine.yaml: first_seed=-1: must not be negative
{primary: [loss]} -> mine.yaml: primary=['loss']: expected text
{metrics: loss} -> mine.yaml: metrics=loss: expected a list
{metrics: [loss, null]} -> mine.yaml: metrics[1]=null: expected text
{expected: {arm: long}} -> mine.yaml: expected={'arm': 'long'}: expected a list
{expected: [long]} -> mine.yaml: expected[0]=long: expected a group of keys
{expected: [{arm: long, margin: 0, kind: equal}]} -> mine.yaml: expected[0].margin=0.0: must be above 0
{expected: [{arm: long, margin: .nan, kind: equal}]} -> mine.yaml: expected[0].margin=nan: must be a finite number
{expected: [{arm: long, kind: value, region: [2, 1]}]} -> mine.yaml: expected[0].region=[2.0, 1.0]: kind value needs
{expected: [{arm: long, kind: value, region: [a, b]}]} -> mine.yaml: expected[0].region[0]=a: expected a number
{expected: [{arm: long, kind: value, region: [.nan, 1]}]} -> mine.yaml: expected[0].region[0]=nan: must be a finite
{expected: [{arm: [long]}]} -> mine.yaml: expected[0].arm=['long']: expected text
{expected: [{arm: long}, {arm: long}]} -> mine.yaml: expected[1]: the same claim as expected[0]; each is judged once
{expected: [{arm: long, paper_value: .inf}]} -> mine.yaml: expected[0].paper_value=inf: must be a finite number
{doses: {d: {values: {short: 1, long: 2}}}, expected: [{arm: d, against: short}]} -> against=short: d is a difference
{doses: {d: {values: {short: 1, long: 2}}}, expected: [{arm: d_at}]} -> mine.yaml: expected[0].arm=d_at: doses.d has no
{expected: [{arm: aa}]} -> mine.yaml: expected[0].arm=aa: no such arm
{expected: [{arm: control}]} -> mine.yaml: expected[0].arm=control: no such arm
{waive: {nothing: because}} -> sweep=mine waive.nothing: no arm may do without it; did you mean decoding?
{waive: {causality: ''}} -> mine.yaml: waive.causality=: must not be empty
{waive: [causality]} -> mine.yaml: waive=['causality']: expected a mapping
{control: {train.token_fraction: '0.9'}} -> mine.yaml control: train.token_fraction=0.9: expected a number, got text
{control: [train.token_fraction]} -> mine.yaml: control=['train.token_fraction']: expected a mapping
{control: null} -> mine.yaml: control=null: expected a mapping
{common: {runs_dir: /tmp}} -> mine.yaml common: runs_dir: not a key of a trial; an arm can set model.*
{common: {track.mode: online}} -> mine.yaml common: track.mode: not a key of a trial; an arm can set
{common: {launch.workers: 4}} -> mine.yaml common: launch.workers: not a key of a trial; an arm can set
{common: {eval.tasks: piqa}} -> mine.yaml common: eval.tasks=piqa: expected a list
{common: {eval.run_model_code: true}} -> eval.run_model_code=true: no task here runs programs; add humaneval or mbpp
{common: {data.path: /etc/passwd}} -> data.path=/etc/passwd: is read with data.source=text only; add data.source=text
{at_least: {model.d_model: '64'}} -> mine.yaml: at_least.model.d_model=64: expected a whole number, got text
{at_least: {model.d_model: -1}} -> mine.yaml at_least: model.d_model=-1: must be at least 1
{_target_: os.system} -> mine.yaml: _target_: no such key; did you mean stages?
{defaults: [x]} -> mine.yaml: defaults: no such key
{hydra: {run: {dir: x}}} -> mine.yaml: hydra: no such key
{'': 1} -> mine.yaml: : no such key
{"que\nstion": 1} -> mine.yaml: que stion: no such key; did you mean question?
{question: "\e[31mred"} -> mine.yaml: question=\x1b[31mred: holds a control character
"""
