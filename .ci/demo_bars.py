"""Holds the demo's figures (digits, BadNets at 10 %) to the bars the README promises; exit code 1 where one is missed."""

import json
import sys

with open(sys.argv[1]) as file:
    results = json.load(file)
before, after, split = results["undefended"], results["defended"], results["split"]
bars = [
    ("undefended ASR", before["asr"], ">=", 95),
    ("split precision", split["precision"], ">=", 98),
    ("split recall", split["recall"], ">=", 98),
    ("defended ASR", after["asr"], "<=", 2),
    ("defended ACC below undefended", before["acc"] - after["acc"], "<=", 2),
    ("defended RA", after["ra"], ">=", 90),
]
missed = 0
for name, figure, relation, bar in bars:
    met = figure >= bar if relation == ">=" else figure <= bar
    missed += not met
    print(f"demo: {name} {figure:.2f} {relation} {bar}: {'met' if met else 'MISSED'}")
sys.exit(1 if missed else 0)
