"""A view as a command and as lines of Python: the way from the page into a terminal or a notebook.

What stands in braces is filled in by the page with the values of its address, see `workbench.address`; what stands in
brackets is left out where it has none of them. Of several methods the first is taken.
"""

from __future__ import annotations

DATA = ("scenes", "scenes_seg", "scenes_det", "digits", "cifar10")
"""Sets that are called the same everywhere; those of a person are known to this page alone."""

COMMANDS = {
    "attention": (
        "ouro attention {model} --data {data} --sample {image} --layer {layer} --window {window} "
        "--window-weights {neighbors} --out attention.png"
    ),
    "quantize": (
        "ouro quantize {model} --method {method} --bits {bits} --calib {calib}:{count} --scope {scope} --seed {seed}"
        "[ --keep '{ignore}=32'] --out quantized.safetensors && "
        "ouro evaluate quantized.safetensors --limit {limit} --seed {seed}"
    ),
    "tasks": "ouro show {model} --data {data} --sample {image} --steps {steps} --seed {seed} --out answer.png",
}
"""Tab -> the command that computes the same."""

PYTHON = {
    "attention": """\
from ouro.figures.attention import attention_matplotlib
from ouro.jobs.explain import ExplainSpec, explain
from ouro.progress import finish

spec = ExplainSpec("{model}", data="{data}", sample={image}, layer={layer}, window={window}, weights="{neighbors}")
report = finish(explain(spec))
attention_matplotlib(report)
""",
    "outliers": """\
from ouro.figures.outliers import paper
from ouro.jobs.outliers import OutlierSpec, outliers
from ouro.progress import finish

spec = OutlierSpec(
    "{model}", data="{data}", sample={image}, layer={layer}, tensor="{tensor}", direction="{scan}", kappa={kappa}, refresh={refresh}
)
report = finish(outliers(spec))
paper(report)
""",
    "quantize": """\
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.progress import finish

spec = QuantizeSpec(
    "{model}", "{method}", "{bits}", "{calib}:{count}", "{scope}", seed={seed}[, keep=((r"{ignore}", 32),)]
)
made = finish(quantize(spec)).values["path"]
finish(evaluate(EvaluateSpec(made, limit={limit}, seed={seed}))).values
""",
    "tasks": """\
from ouro.figures.tasks import paper
from ouro.jobs.answers import AnswersSpec, answers
from ouro.progress import finish

report = finish(answers(AnswersSpec("{model}", data="{data}", sample={image}, steps={steps}, seed={seed})))
paper(report)
""",
}
"""Tab -> the same as lines for a notebook; the last one draws it."""
