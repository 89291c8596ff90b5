"""What actions/attest refuses, is refused here, too; the rest is a line in ATTESTATIONS, which tests/actions/bin/gh reads."""

import hashlib
import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

inputs = json.loads(os.environ["INPUTS"])
MEDIA = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


def check(holds: Any, why: str) -> None:
    """End as the action does."""
    if not holds:
        sys.exit(f"::error::{why}")


def subjects() -> dict[str, str]:
    """The digest of each subject, by its name."""
    path, name, digest = (inputs[f"subject-{part}"] for part in ("path", "name", "digest"))
    check(
        bool(path) != bool(digest),
        "One of subject-path, subject-digest, or subject-checksums must be provided",
    )
    if path:
        files = [
            file
            for pattern in re.split(r"[\n,]", path)
            if pattern.strip()
            for file in Path().glob(pattern.strip())
        ]
        check(files, f"Could not find subject at path {path}")
        return {
            Path(file).name: f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}" for file in files
        }
    check(name, "subject-name must be provided when using subject-digest")
    check(
        re.fullmatch(r"sha256:[0-9a-f]{64}", digest),
        "subject-digest must be in the format 'sha256:<hex-digest>'",
    )
    check(re.fullmatch(r"[a-z0-9.:_-]+(/[a-z0-9._-]+)+", name), f"Invalid image name: {name}")
    return {name: digest}


def predicate() -> str:
    """The name of the predicate: the bill of materials, or else the provenance."""
    if not inputs["sbom-path"]:
        return "provenance"
    file = Path(inputs["sbom-path"])
    check(file.is_file() and file.stat().st_size < 16 * 2**20, f"SBOM file {file}: missing, or over 16 MB")
    sbom = json.loads(file.read_text())
    check("spdxVersion" in sbom or sbom.get("bomFormat") == "CycloneDX", "Unsupported SBOM format")
    names = {package["name"] for package in sbom["packages"]}
    check({"onnxruntime", "libc6"} <= names, "the bill of materials lacks Python's packages, or the system's")
    return str(file)


def main() -> None:
    """Attest."""
    found, what = subjects(), predicate()
    if inputs["push-to-registry"] == "true":
        ((name, digest),) = found.items()
        check(inputs["subject-name"], "push-to-registry needs a subject-name and a subject-digest")
        registry, _, path = name.partition("/")
        request = urllib.request.Request(
            f"http://{registry}/v2/{path}/manifests/{digest}", headers={"Accept": MEDIA}
        )
        urllib.request.urlopen(request, timeout=10)  # raises if it was not pushed
    for name, digest in found.items():
        print(f"attested {name}@{digest} {what}")
        if kept := os.environ.get("ATTESTATIONS"):
            with Path(kept).open("a") as file:
                file.write(f"{digest} {what}\n")


main()
