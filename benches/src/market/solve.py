"""Solves models with HiGHS on one thread: `solve.py SECONDS FILE...` prints a line of JSON for each."""

import json
import sys

import highspy

seconds, *files = sys.argv[1:]
for file in files:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("time_limit", float(seconds))
    highs.setOptionValue("mip_rel_gap", 1e-6)
    if highs.readModel(file) != highspy.HighsStatus.kOk:
        sys.exit(f"HiGHS cannot read {file}")
    highs.run()
    info = highs.getInfo()
    print(json.dumps({
        "status": highs.modelStatusToString(highs.getModelStatus()),
        "found": info.objective_function_value,
        "bound": info.mip_dual_bound,
        "seconds": highs.getRunTime(),
        "version": highs.version(),
    }), flush=True)
