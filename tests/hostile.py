"""Result files in which every text from outside attacks the page that shows it, or the spreadsheet that opens it."""

from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, OperatorCase
from tests.synthetic import content, record, time, write, write_records

FORMULAS = ("=cmd|' C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "text\r=1", "text\n=1")
# Texts that run a script where they are taken for HTML, an attribute, an address, a style, a script or a template.
PAYLOADS = (
    "<script>window.hacked=1</script>",
    "<ScRiPt>window.hacked=1</sCrIpT>",
    "<script src=data:,window.hacked=1></script>",
    "<script type=module>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>--><script>window.hacked=1</script>",
    "<script>window.hacked=1//",
    "<scr<script>ipt>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<img src=x onerror='window.hacked=1'>",
    "<img/src/onerror=window.hacked=1>",
    '"><img src=x onerror=window.hacked=1>',
    "'><img src=x onerror=window.hacked=1>",
    "`><img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1>",
    "<svg/onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>",
    "<svg><animate onbegin=window.hacked=1 attributeName=x dur=1s>",
    "<svg><set onbegin=window.hacked=1 attributeName=x>",
    "<svg><use href='data:image/svg+xml,<svg onload=window.hacked=1>'>",
    "<body onload=window.hacked=1>",
    "<iframe src=javascript:parent.hacked=1></iframe>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<object data=javascript:window.hacked=1></object>",
    "<embed src=javascript:window.hacked=1>",
    "<details open ontoggle=window.hacked=1>",
    "<input autofocus onfocus=window.hacked=1>",
    "<select autofocus onfocus=window.hacked=1>",
    "<textarea autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<audio src=x onerror=window.hacked=1>",
    "<marquee onstart=window.hacked=1>",
    "<style>@import'data:text/css,*{color:red}'</style>",
    "<style onload=window.hacked=1></style>",
    "<link rel=stylesheet href=data:, onload=window.hacked=1>",
    "<meta http-equiv=refresh content='0;url=javascript:window.hacked=1'>",
    "<base href=javascript:window.hacked=1//>",
    "<a href=javascript:window.hacked=1 autofocus onfocus=window.hacked=1>x</a>",
    "javascript:window.hacked=1",
    "<math><mtext><style><img src=x onerror=window.hacked=1></style></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'>",
    "<template><script>window.hacked=1</script>",
    "</title><script>window.hacked=1</script>",
    "</style><script>window.hacked=1</script>",
    "</textarea><script>window.hacked=1</script>",
    "--><script>window.hacked=1</script>",
    "]]><script>window.hacked=1</script>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "{{7*7}}{% raw %}<script>window.hacked=1</script>",
    '\\"};window.hacked=1;//',
    "\u2028window.hacked=1\u2029",
    "' onmouseover=window.hacked=1 x='",
    '" onmouseover=window.hacked=1 autofocus onfocus=window.hacked=1 x="',
    "$\\frac{$<script>window.hacked=1</script>",
    "${window.hacked=1}",
    "\x00<script>window.hacked=1</script>",
)
# In every place of a page that shows records, and of one without any.
WITH_RECORDS = (
    "env", "provenance", "cores", "field", "inner field", "inner value", "cache", "size",
    "reason", "quantity", "operator", "direction", "variant", "dtype", "skip",
)  # fmt: skip
WITHOUT_RECORDS = ("env", "cpu", "key", "value")


class Attack:
    """Files of a machine whose name and other texts are a payload. The other texts are marked with their place.

    name: of the machine, which is a folder and cannot contain a slash.
    """

    def __init__(self, payload: str) -> None:
        self.payload = payload
        self.name = payload.replace("/", "").replace("\0", "")

    def text(self, place: str) -> str:
        """The payload, marked with its place."""
        return f"{self.payload}({place})"

    def write(self, folder: Path) -> None:
        """Write results and outcomes. Those of another machine are formulas."""
        text = self.text
        numbers: dict[Case, float | None] = {time("forward", "numpy.out"): 1e-3, time("forward", "numpy.fresh"): None}
        about: dict[str, Any] = {"machine": self.name, "commit": "<script>window.hacked=1</script>", "env": text("env")}
        stored = content(numbers, about["commit"], about["env"])
        write(folder / "results", stored, self.name, "stored.json")
        write(folder / "results", {"cpu": text("cpu"), text("key"): text("value")}, self.name, "machine.json")
        write(folder / "results", [], self.name, f"{self.name}.json")
        write(folder / "results", stored, FORMULAS[0], "stored.json")
        caches = {text("cache"): 2**23, "$\\frac{$": 2**24, "L3": text("size"), "L4": -1, "L5": 10**400}
        provenance = {
            "cpu": text("provenance"),
            "cores_usable": text("cores"),
            text("field"): {text("inner field"): text("inner value")},
            "caches_bytes": caches,
        }
        failed = record(time("forward", "numpy.fresh"), "error", text("reason"), **about, provenance=provenance)
        skipped = OperatorCase(text("quantity"), text("operator"), text("direction"), text("variant"), 1, text("dtype"))
        foreign = record(time("backward", "numpy.fresh"), text("status"), **about)
        lines = [failed, record(skipped, "skipped", text("skip"), **about), foreign]
        write_records(folder / "outcomes", lines, "a/a.jsonl")
        about["machine"] = FORMULAS[0]
        formulas = [
            record(time("forward", "torch.out", 2**number), "error", formula, **about)
            for number, formula in enumerate(FORMULAS)
        ]
        write_records(folder / "outcomes", formulas, "b/b.jsonl")


# HTML, JavaScript, templates and figures at once.
COMBINED = Attack(
    '"><svg onload=window.hacked=1><img src=x onerror=window.hacked=1>{{7*7}}<img src=x onerror="window.hacked=1">'
    """</script><script>window.hacked=1</script>'</style></title></textarea>--></table>$\\frac{$&lt;{% raw %}"""
)
