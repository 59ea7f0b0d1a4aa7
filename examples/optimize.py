"""The whole of paretune in a few lines, on the model of `digits_task.py`: `python examples/optimize.py`."""

import paretune
from digits_task import load

model, train, val, test = load()  # yours: any nn.Module; a DataLoader, a Dataset, or a pair of arrays
task = paretune.Task(model=model, train=train, val=val, test=test, loss="cross_entropy", metric="accuracy")
result = paretune.optimize(task, max_drop=1.0, max_latency="0.8x", budget="2min", out="runs/optimize")

for candidate in result.candidates:
    print(candidate)
if result.best:
    print("ships:", result.best.save("out/"))
print("report:", result.report("report.html"))
