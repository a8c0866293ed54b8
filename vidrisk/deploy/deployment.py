"""The folder that is copied to a machine, written completely or not at all."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import av
import jinja2
import numpy as np

from vidrisk import __version__
from vidrisk.deploy.contents import lines_of_lock, text_of_licenses
from vidrisk.deploy.devices import GLIBC, TARGETS, Target, TargetName
from vidrisk.deploy.wheel import write_wheel
from vidrisk.runtimes.contract.bundle import MANIFEST, Bundle, sha256_of
from vidrisk.runtimes.contract.errors import BundleError, SettingsError, VidriskError, require
from vidrisk.runtimes.contract.manifest import WEIGHT_ONLY
from vidrisk.runtimes.contract.outputs import refuse_below_file
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

STATE = "/var/lib/vidrisk"
DEFAULT_INBOX = f"{STATE}/inbox"
OWN_FOLDERS = (f"{STATE}/out", f"{STATE}/cache")
HIDDEN = ("/tmp", "/var/tmp", "/dev", "/proc", "/sys")  # by PrivateTmp=, PrivateDevices= and the like in the unit
FILES = Path(__file__).with_name("files")
SCRIPTS = ("install.sh", "uninstall.sh")
TEMPLATES = ("deploy.conf", "vidrisk-watch.service", "Dockerfile", "README.md")
SMOKE_CLIP = "smoke.mp4"
SUMS = "SHA256SUMS"
LICENSES = "LICENSES.txt"
REQUIREMENTS = "requirements.txt"
OLDEST_DRIVER = 580  # that runs CUDA 13
# Size of the installed Python packages; engines and the bundle come on top.
PACKAGES_MB = {"tensorrt": 1000, "tensorrt-rtx": 4000, "": 1000}
BUNDLE_COPIES = 5  # the copy, and an engine per variant


@dataclass(frozen=True)
class Deployment:
    """A written folder.

    Attributes:
        wheels: number of wheels in it, not counting vidrisk's own.
    """

    folder: Path
    bundle: str
    wheel: str
    wheels: int
    bytes: int


def write_deployment(
    bundle: Path,
    name: TargetName,
    out: Path,
    *,
    wheels: bool = False,
    python: str | None = None,
    inbox: str = DEFAULT_INBOX,
    on_progress: OnProgress = ignore_progress,
) -> Deployment:
    """Write the folder for one bundle and one kind of machine.

    Args:
        bundle: to deploy.
        name: kind of machine.
        out: folder to make; it must not exist yet.
        wheels: include all packages, so that no network is needed there.
        python: version of Python there, for ``wheels``; None takes the usual one of that machine.
        inbox: absolute path, on that machine, of the folder to watch.
        on_progress: reports what is written.

    Raises:
        BundleError: the bundle is damaged, or was quantised for another kind of machine.
        SettingsError: ``out`` exists, or a value makes no sense.
        VidriskError: a package has no wheel for that machine, vidrisk's own wheel cannot be built, or the folder cannot
            be written.
    """
    target, opened = TARGETS[name], Bundle.open(bundle)
    version = target.python(python)
    _check(opened, name, target, out, inbox)
    if python and not wheels:
        raise SettingsError("python without wheels", fix="ask for wheels, or leave python out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise VidriskError(f"cannot write to {out.parent}: {error.strerror}", fix="choose another folder") from error
    try:
        deployment = _fill_folder(staging, opened, name, target, inbox, version if wheels else None, on_progress)
        staging.chmod(0o755)
        staging.rename(out)
    except OSError as error:
        raise VidriskError(
            f"cannot write to {out}: {error.strerror}", fix="make room, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Deployment(out, deployment.bundle, deployment.wheel, deployment.wheels, deployment.bytes)


def _check(bundle: Bundle, name: TargetName, target: Target, out: Path, inbox: str) -> None:
    refuse_below_file(out)
    if os.path.lexists(out):
        raise SettingsError(f"{out} exists already", fix="choose another folder, or delete it first")
    for what, text in (("the name of the bundle ", bundle.root.resolve().name), ("inbox=", inbox)):
        if not text.isprintable():
            raise SettingsError(f"{what}{text!r}", allowed="printable characters")
    if not inbox.startswith("/") or inbox.startswith("//") or os.path.normpath(inbox) != inbox or inbox == "/":
        raise SettingsError(f"inbox={inbox}", allowed="an absolute path such as /var/lib/vidrisk/inbox")
    for place in HIDDEN:
        if PurePosixPath(inbox).is_relative_to(place):
            raise SettingsError(
                f"inbox={inbox}: the service has a {place} of its own, and does not see that of the machine",
                allowed="a folder elsewhere, such as /var/lib/vidrisk/inbox or /data/inbox",
            )
    for place in OWN_FOLDERS:
        if PurePosixPath(inbox).is_relative_to(place) or inbox == STATE:
            raise SettingsError(
                f"inbox={inbox}: {STATE} holds what the service itself keeps",
                allowed=f"another folder, such as {DEFAULT_INBOX}",
            )
    quantised = {
        name: variant
        for name, variant in bundle.manifest.variants.items()
        if variant.lowest_precision not in ("fp32", "fp16")
    }
    told, precisions = _read_export_target(bundle), [set(variant.precision.values()) for variant in quantised.values()]
    # A bundle that was exported for any target and has packed weights runs on TensorRT in floating point, if it has
    # such a variant.
    is_for_both = (
        told == "any"
        and all(WEIGHT_ONLY & each for each in precisions)
        and any(variant.engines != "processor" for variant in bundle.manifest.variants.values())
    )
    is_for_processors = told == "cpu" or (
        not is_for_both and all(variant.engines == "processor" for variant in quantised.values())
    )
    if target.engine and quantised and is_for_processors:
        raise BundleError(
            f"{bundle.root.name} has {' and '.join(quantised)} for processors, which TensorRT refuses",
            fix=f"export it for TensorRT and the target {'jetson' if target.is_jetson else 'gpu'}",
        )


def _read_export_target(bundle: Bundle) -> str:
    """Return the target of the export as the gate recorded it, or '' if it did not."""
    try:
        return str(json.loads((bundle.root / "gate.json").read_text(encoding="utf-8")).get("target", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _fill_folder(
    folder: Path,
    bundle: Bundle,
    name: TargetName,
    target: Target,
    inbox: str,
    python: str | None,
    on_progress: OnProgress,
) -> Deployment:
    bundle_name = bundle.root.resolve().name
    copy = folder / "bundle" / bundle_name
    copy.mkdir(parents=True)
    for file in (MANIFEST, *bundle.manifest.files):
        shutil.copyfile(bundle.root / file, copy / file)
    if Bundle.open(copy).digest != bundle.digest:
        raise BundleError(f"{bundle.root.name} changed while it was copied", fix="run the command again")
    on_progress("wheel", 0, 1)
    wheel = write_wheel(folder)
    if python:
        wheels = _write_wheels(wheel, target, python, on_progress)
        lines = lines_of_lock(wheel, target.extras, wheels)
    else:
        wheels, lines = (
            [],
            [
                "# In addition to vidrisk's own requirements. Versions are those in the index when this is installed.",
                *target.requirements,
            ],
        )
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / LICENSES).write_text(text_of_licenses([wheel, *wheels]), encoding="utf-8")
    values = {
        "name": name,
        "target": target,
        "bundle": bundle_name,
        "inbox": inbox,
        "wheel": wheel.name,
        "wheels_python": python or "",
        "version": __version__,
        "l4t": " ".join(f"{major}.{minor}" for major, minor in target.l4t),
        "driver": str(OLDEST_DRIVER) if target.engine == "tensorrt-rtx" else "",
        "need_mb": PACKAGES_MB[target.engine]
        + BUNDLE_COPIES * sum(f.bytes for f in bundle.manifest.files.values()) // 2**20,
        "command": [
            "-v",
            "watch",
            DEFAULT_INBOX,
            "-o",
            "/var/lib/vidrisk/out",
            "--bundle",
            f"/opt/vidrisk/current/bundle/{bundle_name}",
            *(("--runtime", target.engine) if target.engine else ()),
        ],
    }
    for file in TEMPLATES:
        (folder / file).write_text(_environment().get_template(f"{file}.j2").render(values), encoding="utf-8")
    for file in SCRIPTS:
        shutil.copyfile(FILES / file, folder / file)
        (folder / file).chmod(0o755)
    write_smoke_clip(folder / SMOKE_CLIP)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / SUMS).write_text(
        "".join(f"{sha256_of(path)}  {path.relative_to(folder)}\n" for path in files), encoding="utf-8"
    )
    return Deployment(folder, bundle_name, wheel.name, len(wheels), sum(path.stat().st_size for path in files))


def _write_wheels(wheel: Path, target: Target, python: str, on_progress: OnProgress) -> list[Path]:
    require("packaging", "export")
    from vidrisk.deploy.wheels import Platform, download_wheels, requirements_from_lines, requirements_of

    platform = Platform(target.machines[0], python, GLIBC[python])
    folder = wheel.parent / "wheels"
    folder.mkdir()
    requirements = [
        *requirements_of(wheel, target.extras, platform),
        *requirements_from_lines(target.requirements, platform),
    ]
    return download_wheels(requirements, platform, folder, on_progress)


def write_smoke_clip(path: Path) -> None:
    """Write one second of moving colours, enough to try decoder and model on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        rows, columns = np.mgrid[0:240, 0:320]
        for moment in range(8):
            frame = np.stack([rows, columns // 2, (rows + columns) // 3 + 20 * moment], axis=2) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"sh": shlex.quote, "unit": unit_word, "unit_text": unit_text}
    return environment


def unit_text(text: str) -> str:
    """Escape text for a unit file, where ``%`` begins a specifier (systemd.unit(5))."""
    return text.replace("%", "%%")


def unit_word(text: str) -> str:
    """Quote one argument of a command line in a unit file (systemd.service(5), "Command lines")."""
    return '"' + unit_text(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$") + '"'
