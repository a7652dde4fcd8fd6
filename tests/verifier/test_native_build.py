# SPDX-License-Identifier: Apache-2.0
"""What the C source says of the libraries that it calls is true, and its part for macOS computes the same.

These need gcc and OpenSSL's headers, which a build of the verifier does not.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "verifier" / "arx_verifier"
SOURCE = PACKAGE / "_native" / "primitives.c"
CAN_COMPILE = shutil.which("gcc") is not None and Path("/usr/include/openssl/evp.h").exists()
pytestmark = pytest.mark.skipif(
    not CAN_COMPILE and "ARX_REQUIRE_COMPILED" not in os.environ, reason="no gcc, or no headers of OpenSSL 3"
)

# CommonCrypto as primitives.c calls it, over the SHA-256 of OpenSSL.
DIGEST_H = """
typedef struct { uint64_t words[14]; } CC_SHA256_CTX;
typedef uint32_t CC_LONG;
int CC_SHA256_Init(CC_SHA256_CTX *hash);
int CC_SHA256_Update(CC_SHA256_CTX *hash, const void *data, CC_LONG size);
int CC_SHA256_Final(unsigned char *out, CC_SHA256_CTX *hash);
int memset_s(void *data, size_t room, int value, size_t size);
int timingsafe_bcmp(const void *left, const void *right, size_t size);
"""
DIGEST_C = """
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>
int CC_SHA256_Init(SHA256_CTX *hash) { return SHA256_Init(hash); }
int CC_SHA256_Update(SHA256_CTX *hash, const void *data, unsigned size) { return SHA256_Update(hash, data, size); }
int CC_SHA256_Final(unsigned char *out, SHA256_CTX *hash) { return SHA256_Final(out, hash); }
int memset_s(void *data, size_t room, int value, size_t size) { return !memset(data, value, size) || room < size; }
int timingsafe_bcmp(const void *left, const void *right, size_t size) { return CRYPTO_memcmp(left, right, size); }
"""


def compile_c(*words: str | Path) -> None:
    """Run gcc; fail with what it wrote."""
    command = ["gcc", "-Wall", "-Werror", f"-I{sysconfig.get_path('include')}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_declarations_are_those_of_openssl() -> None:
    """Declared twice, by OpenSSL's headers first, a function of another type is an error."""
    compile_c("-fsyntax-only", "-include", "openssl/evp.h", "-include", "openssl/crypto.h", SOURCE)


@pytest.mark.slow
def test_the_build_for_macos_computes_the_same(tmp_path: Path) -> None:
    """With the calls of CommonCrypto in place of those of OpenSSL, each comparison with the references holds."""
    (tmp_path / "CommonCrypto").mkdir()
    (tmp_path / "CommonCrypto" / "CommonDigest.h").write_text(DIGEST_H)
    (tmp_path / "digest.c").write_text(DIGEST_C)
    shutil.copytree(PACKAGE, tmp_path / "arx_verifier", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    module = tmp_path / "arx_verifier" / "_native" / "primitives.abi3.so"
    compile_c("-c", "-fPIC", "-Wno-deprecated-declarations", tmp_path / "digest.c", "-o", tmp_path / "digest.o")
    mac = ("-shared", "-fPIC", "-D__APPLE__", f"-I{tmp_path}", SOURCE)
    compile_c(*mac, tmp_path / "digest.o", "-o", module, "-lcrypto")
    names = subprocess.run(["nm", "-D", module], capture_output=True, text=True, check=True).stdout
    assert "EVP_" not in names
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ARX_REQUIRE_COMPILED": "1", "ARX_PURE": "0"}
    files = ["tests/verifier/test_native.py", "tests/verifier/test_chain.py"]
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
