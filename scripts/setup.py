"""Make ``.venv`` and put into it what a make target needs: ``setup.py demo`` or ``setup.py dev``; ``setup.py lock`` renews the lock.

Standard library only, in a syntax that Python 3.8 still reads, so that an old ``python3`` gets as far as looking for a newer one.

- A second run with nothing to do reads five small files and ends (under 0.1 s).
- The stamp is written last, so an interrupted run is finished by the next one. One run at a time (a lock on ``.setup.lock``).
- Packages come through pip and its own configuration. Only where Python has no ensurepip is pip itself fetched, pinned by hash.
- System packages are installed only as root, with apt, and unless ``ANNEXE_SETUP_SYSTEM=no``; what is missing is said with its cost.
- Versions are those of ``requirements/lock.txt``. Where these cannot be had, a developer gets the newest ones and is told; CI fails.

Source: ADR-0037.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements" / "lock.txt"
PROJECTS = (ROOT / "sdk" / "python", ROOT)
OLDEST = (3, 11)

GROUPS = {"demo": ("build", "demo"), "dev": ("build", "demo", "test", "lint")}

# What pip is fetched as where ensurepip is missing (Debian without python3-venv). Any index that has this file will do.
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
MAX_DOWNLOAD_BYTES = 32 * 1024 * 1024

# command, Debian package, which profiles want it, what is lost without it
SYSTEM_TOOLS = (
    ("bwrap", "bubblewrap", ("demo", "dev"), "plugins run at level landlock"),
    ("node", "nodejs", ("dev",), "the plugin in another language is not tried (its test is skipped; under CI it fails)"),
    (
        "libseccomp.so.2",
        "libseccomp2",
        ("dev",),
        "the committed filters are not made again and compared (their test is skipped; under CI it fails)",
    ),
    ("curl", "curl", ("dev",), "the README's demo is not tried (its test is skipped; under CI it fails)"),
)


class SetupError(Exception):
    """Set-up cannot go on; the text says why and what would mend it."""


def say(text: str) -> None:
    print("setup: " + text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    profile = arguments[0] if arguments else "dev"
    if profile not in (*GROUPS, "lock"):
        raise SetupError(f"expected demo, dev or lock, got {profile!r}.")
    if sys.version_info < OLDEST:
        use_newer_python(arguments)
    if profile == "lock":
        renew_lock()
        return 0
    if is_current(profile):
        return 0
    import fcntl

    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another make is setting up; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current(profile):  # the other one may have done it
            set_up(profile)
    return 0


def use_newer_python(arguments: list[str]) -> None:
    """Start again with the newest python3.N on the path; returns never."""
    import shutil
    import subprocess

    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        # What is on the path may be a version manager's stand-in for a Python that is not there.
        real = found and subprocess.run(
            [found, "-I", "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
        )
        if real and real.returncode == 0:
            os.execv(real.stdout.strip(), [real.stdout.strip(), "-I", __file__, *arguments])
    raise SetupError(f"Python 3.{OLDEST[1]} or newer is needed, this is {sys.version.split()[0]}. Name one: make PYTHON=/path/to/python3")


# -- what is there already


def key() -> str:
    """Return a digest of everything that decides what ``.venv`` holds."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version}\n".encode())
    for path in (*(project / "pyproject.toml" for project in PROJECTS), LOCK, Path(__file__)):
        digest.update(path.read_bytes() if path.exists() else b"")
        digest.update(b"\0")
    return digest.hexdigest()


def stamp(profile: str) -> Path:
    return VENV / f".setup-{profile}"


def is_current(profile: str) -> bool:
    """Say whether this profile, or one that holds more, is installed and nothing has changed since."""
    if not VENV_PYTHON.exists():
        return False
    wanted = key()
    enough = [name for name, groups in GROUPS.items() if set(groups) >= set(GROUPS[profile])]
    return any(stamp(name).exists() and stamp(name).read_text() == wanted for name in enough)


# -- the steps


def set_up(profile: str) -> None:
    import time

    started_s = time.monotonic()
    say(f"[1/4] virtual environment .venv with Python {sys.version.split()[0]}")
    make_venv(VENV)
    say("[2/4] pip")
    ensure_pip(VENV_PYTHON)
    wanted = requirements_of(GROUPS[profile])
    say(f"[3/4] packages for '{profile}' (the first time, a minute or two of downloading)")
    install(wanted)
    say("[4/4] system tools")
    ensure_tools(profile)
    stamp(profile).write_text(key())
    say(f"ready after {time.monotonic() - started_s:.0f} s")


def make_venv(folder: Path) -> None:
    """Make a virtual environment without pip, unless one of this very Python is there and runs."""
    import subprocess
    import venv

    python = folder / "bin" / "python"
    if python.exists():
        found = subprocess.run([str(python), "-I", "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=False)
        if found.stdout.strip() == sys.version.strip():
            return
        say("  .venv is of another Python or broken; making it anew")
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(folder)


def ensure_pip(python: Path) -> None:
    """Give an environment pip: from ensurepip, else as the pinned wheel, else with ensurepip from a system package."""
    if runs(python, "-m", "pip", "--version") or runs(python, "-m", "ensurepip", "--default-pip"):
        return
    try:
        say(f"  this Python has no ensurepip; fetching {PIP_WHEEL}")
        install_pip_wheel(python)
    except (OSError, SetupError) as error:
        say(f"  could not: {error}")
    else:
        return
    package = f"python3.{sys.version_info[1]}-venv"
    if apt_install(package, "ca-certificates") and runs(python, "-m", "ensurepip", "--default-pip"):
        return
    raise SetupError(f"no pip for .venv. Check network and package index, or as root: apt-get install {package} ca-certificates")


def install(wanted: list[str]) -> None:
    """Install requirements and both packages (editable), as locked; byte-compile everything at the end, on every core."""
    editable = [part for project in PROJECTS for part in ("-e", str(project))]
    common = [str(VENV_PYTHON), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", "--no-input"]

    def steps(extra: list[str]) -> None:
        logged([*common, *extra, *wanted])
        # The build backend was just installed, locked like the rest; a build of its own would download the newest.
        logged([*common, *extra, "--no-build-isolation", *editable])

    try:
        steps(["-c", str(LOCK)])
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        say(f"  {error}")
        say("  the locked versions could not be installed; trying the newest, which nobody has tested together")
        steps([])
    # Also where PYTHONDONTWRITEBYTECODE is set: without bytecode every start would take twice as long.
    site_packages = next((VENV / "lib").glob("python3*/site-packages"))
    sources = [str(project / "src") for project in PROJECTS]
    logged([str(VENV_PYTHON), "-m", "compileall", "-q", "-j", "0", str(site_packages), *sources], may_fail=True)


def requirements_of(groups: tuple[str, ...]) -> list[str]:
    """Read dependency groups; pip learned ``--group`` too recently to ask it."""
    import tomllib

    def expand(name: str) -> list[str]:
        entries = declared[name]
        return [text for entry in entries for text in (expand(entry["include-group"]) if isinstance(entry, dict) else [entry])]

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return sorted({text for group in groups for text in expand(group)})


# -- pip without ensurepip


def index_url() -> str:
    """Return the index as pip would choose it: environment, then configuration files, then PyPI."""
    import configparser

    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    own = (str(Path.home() / name) for name in (".config/pip/pip.conf", ".pip/pip.conf"))
    for name in (os.environ.get("PIP_CONFIG_FILE", ""), *own, "/etc/xdg/pip/pip.conf", "/etc/pip.conf"):
        config = configparser.RawConfigParser()
        try:
            config.read(name)
        except configparser.Error:
            continue
        for section in ("install", "global"):
            if config.has_option(section, "index-url"):
                return config.get(section, "index-url")
    return "https://pypi.org/simple"


def find_link(page: str, base: str, filename: str) -> str:
    """Return the absolute address of a file that a simple-index page lists.

    Raises:
        SetupError: The page does not list it.
    """
    import html
    import re
    from urllib.parse import urljoin

    for href in re.findall(r"""href\s*=\s*["']([^"']+)""", page):
        address = urljoin(base, html.unescape(href)).split("#")[0]
        if address.rsplit("/", 1)[-1] == filename:
            return address
    raise SetupError(f"{base} does not list {filename}.")


def fetch(address: str) -> bytes:
    import ssl
    import urllib.request

    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    if not address.startswith("https://"):
        raise SetupError(f"expected an https address, got {address}.")
    with urllib.request.urlopen(address, timeout=60, context=context) as answer:
        content: bytes = answer.read(MAX_DOWNLOAD_BYTES)
    return content


def install_pip_wheel(python: Path) -> None:
    import tempfile

    base = index_url().rstrip("/") + "/pip/"
    content = fetch(find_link(fetch(base).decode("utf-8", "replace"), base, PIP_WHEEL))
    actual = hashlib.sha256(content).hexdigest()
    if actual != PIP_SHA256:
        raise SetupError(f"{PIP_WHEEL} from {base} is not the expected file: expected sha256 {PIP_SHA256}, got {actual}.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / PIP_WHEEL
        wheel.write_bytes(content)
        logged([str(python), f"{wheel}/pip", "install", "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)])


# -- system packages


def ensure_tools(profile: str) -> None:
    for command, package, profiles, cost in SYSTEM_TOOLS:
        if profile in profiles:
            ensure_tool(command, package, cost)


def ensure_tool(command: str, package: str, cost: str) -> None:
    if is_there(command):
        return
    if apt_install(package) and is_there(command):
        say(f"  installed the system package {package}")
    else:
        say(f"  {command} is missing and was not installed: {cost}. To have it: apt-get install {package}")


def is_there(name: str) -> bool:
    """Say whether a command can be run, or a library be loaded."""
    import ctypes
    import shutil

    if not name.startswith("lib"):
        return shutil.which(name) is not None
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def apt_install(*packages: str) -> bool:
    """Install system packages if that is ours to do; say whether it worked."""
    import shutil
    import subprocess

    if os.environ.get("ANNEXE_SETUP_SYSTEM") == "no" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"  installing system packages: {' '.join(packages)}")
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *command], stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        say(f"  could not: {error}")
        return False
    return True


# -- running things


def runs(*command: object) -> bool:
    import subprocess

    return subprocess.run([str(part) for part in command], capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def logged(command: list[str], *, may_fail: bool = False) -> None:
    """Run a command with its output in the log; show that it is alive, and the end of the log if it fails.

    Raises:
        SetupError: It failed, unless ``may_fail``.
    """
    import subprocess
    import time

    started_s = time.monotonic()
    with LOG.open("ab") as log:
        offset = log.tell()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
            while True:
                try:
                    code = process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  … {time.monotonic() - started_s:.0f} s")
    if code and not may_fail:
        tail = LOG.read_bytes()[offset:].decode("utf-8", "replace").splitlines()[-15:]
        raise SetupError("\n  ".join([f"a command failed with exit code {code} (all of it in {LOG}):", " ".join(command), *tail]))


# -- the lock


def renew_lock() -> None:
    """Install everything at its newest into a fresh environment and write down what that gave."""
    import subprocess
    import tempfile
    import tomllib

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "venv"
        make_venv(fresh)
        python = fresh / "bin" / "python"
        ensure_pip(python)
        runtime = [tomllib.loads((project / "pyproject.toml").read_text())["project"] for project in PROJECTS]
        own = {project["name"] for project in runtime}
        wanted = [text for project in runtime for text in project["dependencies"] if text.split("=")[0] not in own]
        wanted += requirements_of(GROUPS["dev"])
        say(f"resolving {len(wanted)} requirements")
        subprocess.run([python, "-m", "pip", "install", "--no-compile", "--quiet", *wanted], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    LOCK.parent.mkdir(exist_ok=True)
    LOCK.write_text("# Versions that are tested together; a pip constraints file. Written by `make lock`.\n" + frozen)
    say(f"wrote {LOCK.relative_to(ROOT)} with {len(frozen.splitlines())} versions")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as failure:
        say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
