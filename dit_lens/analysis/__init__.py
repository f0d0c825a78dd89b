"""A declared analysis: what its file says, what it will cost, and carrying it out.

    from dit_lens.analysis import run_analysis

    run_analysis("massive_activations", overrides=["sampling.steps=8"])

`spec` holds the values, `files` and `reading` get them from YAML, `plan` checks and prices them, `run`
carries them out. The questions about edits are in `effects`; those that bring a plan and a run of their own
(`spatial`, `transport`, `guidance`) are `stages`.
"""

from dit_lens.analysis.run import open_model, plan_analysis, run_analysis, write_report

__all__ = ["run_analysis", "plan_analysis", "write_report", "open_model"]
