"""`prune --for`: the calibration is chosen by what keeps a task.

What is calibrated on decides which blocks go, so the budget is spent on calibrations: the task's
own data is split (`split`), every calibration of a table is tried on it (`portfolio`,
`configurations`, `spend`), one set is chosen by a race (`choose`) and judged on data that decided
nothing (`auto`).
"""
