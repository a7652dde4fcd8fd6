# SPDX-License-Identifier: Apache-2.0
"""Push the image of a release to a registry, and sign it there: ``python deploy/publish.py RELEASE REGISTRY/NAME``.

Its signature and attestations are in the registry beside it, where ``cosign verify`` and admission policies look.
"""

import argparse
import json
import sys
from pathlib import Path

from release import run


def publish_image(release: Path, name: str, key: Path, *, is_plain: bool) -> str:
    """Push, sign and attest the image; return its name with the digest.

    Args:
        release: Folder of the release.
        name: The image's name, with the registry.
        key: A key of cosign.
        is_plain: Whether the registry has no TLS.
    """
    manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    [(file, digest)] = manifest["images"].items()
    plain = ["--dest-tls-verify=false"] if is_plain else []
    target = f"docker://{name}:{manifest['version']}"
    run("skopeo", "copy", "--quiet", "--preserve-digests", *plain, f"oci-archive:{release / file}", target)
    options = ["--yes", f"--key={key}", "--tlog-upload=false", *(["--allow-http-registry"] if is_plain else [])]
    image = f"{name}@{digest}"
    run("cosign", "sign", *options, image)
    predicates = {"slsaprovenance1": "provenance.json", "cyclonedx": f"{file}.cdx.json", "openvex": "openvex.json"}
    for kind, predicate in predicates.items():
        run("cosign", "attest", *options, f"--type={kind}", f"--predicate={release / predicate}", image)
    return image


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="deploy/publish.py", description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("name")
    parser.add_argument("--key", type=Path, default=Path.home() / ".arx-release" / "cosign.key", help="[%(default)s]")
    parser.add_argument("--plain-http", action="store_true", help="a registry on loopback has no TLS")
    given = parser.parse_args()
    print(publish_image(given.release, given.name, given.key, is_plain=given.plain_http))


if __name__ == "__main__":
    sys.exit(main())
