"""Put each of more than fifty attacks into every text of result files, and open the report in a real browser.

python -m scripts.verify.report_payloads: with .venv/test. Opens all rows too. Fails if a script runs, if a text becomes
an element or an attribute, if the browser had to block something, or if a text is not shown as it is.
"""

import sys
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from scripts.report import page
from tests.browser import assert_harmless, chromium, show, text
from tests.hostile import PAYLOADS, WITH_RECORDS, Attack


def main() -> int:
    failures = 0
    with (
        tempfile.TemporaryDirectory(prefix="relu-bench-payloads-") as folder,
        chromium(Path(folder, "profile")) as browser,
    ):
        for number, payload in enumerate(PAYLOADS):
            try:
                _attack(Path(folder, str(number)), Attack(payload), browser)
            except AssertionError as error:
                failures += 1
                print(f"{payload!r}: {error}")
    print(f"{len(PAYLOADS)} payloads in {len(WITH_RECORDS)} texts each, {failures} did something")
    return int(failures > 0)


def _attack(folder: Path, attack: Attack, browser: Chrome) -> None:
    """Build the report of an attack and open it, and all its rows. Raises AssertionError."""
    attack.write(folder)
    options = [f"--{name}={folder / name}" for name in ("results", "outcomes", "out")]
    assert page.main([*options, f"--machine={attack.name}"]) == 0, "no report was built"
    show(browser, folder / "out" / "index.html")
    assert_harmless(browser)
    shown = text(browser)
    # HTML drops NUL.
    missing = [
        place for place in WITH_RECORDS if attack.text(place).replace("\0", "") not in shown.replace("\ufffd", "")
    ]
    assert not missing, f"not shown: {', '.join(missing)}"
    for line in browser.find_elements(By.CSS_SELECTOR, "#results tbody tr"):
        browser.execute_script("arguments[0].click()", line)
    assert_harmless(browser)


if __name__ == "__main__":
    sys.exit(main())
