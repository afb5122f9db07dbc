"""Print the chance of a click of each event, a line of JSON each: python score.py [FILE]."""

import fileinput
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    model, bad = runpy.run_path(str(Path(__file__).with_name("model.py")))["load"](), 0
    with fileinput.input(mode="rb") as lines:
        for number, chance, wrong in model.predict_lines(lines):
            print("null" if wrong else chance)
            sys.stderr.write(f"line {number}: {wrong}\n" if wrong else "")
            bad += bool(wrong)
    sys.exit(f"{bad} of the events could not be scored; each is null" if bad else 0)
