r"""The paper's tables and figures, measured again on this project's own runs; ``docs/paper.md`` shows them.

    python -m pipelines.benchmark paper table1    # half an hour: every Kodak image gets an adapter of its own
    python -m pipelines.benchmark paper table2    # ten minutes; wants a quiet machine
    python -m pipelines.benchmark paper table3    # 30 minutes: nine models, two minutes the paper's shape
    python -m pipelines.benchmark paper table4    # five minutes: two more models
    python -m pipelines.benchmark paper figure3   # a quarter of an hour
    python -m pipelines.benchmark paper figure4   # a quarter of an hour
    python -m pipelines.benchmark render

Times are processor time of one core; ``--threads`` (of table1 ``--workers``) shares it out.
``paper all`` runs the six one after another. Every configuration is recorded as soon as it is measured, so a
part that was interrupted goes on where it stopped; ``--again`` starts anew, and other settings than the
recorded ones ask for it. ``--quick`` tries a part out in a minute; its figures are recorded apart and never
shown. Plots need the extra ``benchmark`` (``pip install -c constraints.txt '.[benchmark]'``).
"""
