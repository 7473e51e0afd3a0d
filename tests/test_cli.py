"""The program as a user starts it: a process of its own, from keys to verified reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import POLICY

REQUIREMENT = (
    "    - {severity: high, id: advantage, measure: membership.advantage, attacks: [membership.loss], max: 0.55}"
)
OUTPUTS = ("evidence.json", "attestation.intoto.jsonl", "report.html", "report.pdf")


def midguard(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "midguard.cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def checked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a key was made, a model checked, and signed outputs written."""
    folder = tmp_path_factory.mktemp("cli")
    shutil.copytree(trained, folder / "model")
    (folder / "policy.yaml").write_text(POLICY % ("release", REQUIREMENT))
    made = midguard("keys", "new", "--name", "Privacy Office", cwd=folder)
    assert made.returncode == 0, made.stderr
    ended = midguard(
        "check",
        "policy.yaml",
        "model/model.pt",
        "--out",
        "out",
        "--key",
        "signer.key",
        "--format",
        "json",
        "--seed",
        20_261_122,
        cwd=folder,
    )
    assert ended.returncode == 0, ended.stderr
    (folder / "stdout.json").write_text(ended.stdout)
    return folder


def test_results_go_to_stdout_and_progress_to_stderr(checked: Path) -> None:
    document = json.loads((checked / "stdout.json").read_text())
    written = json.loads((checked / "out" / "evidence.json").read_text())
    assert document == written
    for name in ("schemaVersion", "verdict", "exitCode", "confidence", "seed", "policy", "subject", "findings"):
        assert name in document
    finding = document["findings"][0]
    for name in (
        "id",
        "measure",
        "severity",
        "status",
        "value",
        "low",
        "high",
        "limit",
        "direction",
        "basis",
        "records",
    ):
        assert name in finding
    assert {"line", "reason", "remedy", "attacks"} <= set(finding)


def test_evidence_holds_no_record_and_no_score(checked: Path) -> None:
    """Counts of numbers: nothing in it is as long as the records are many, but the thinned curves."""
    document = json.loads((checked / "out" / "evidence.json").read_text())
    document.pop("figures")
    document.pop("notTested")  # as long as the attacks are many

    def longest(value: object) -> int:
        if isinstance(value, dict):
            return max(map(longest, value.values()), default=0)
        return max([len(value), *map(longest, value)]) if isinstance(value, list) else 0

    assert longest(document) < 20


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_verifies_in_a_process_of_its_own(checked: Path, name: str) -> None:
    ended = midguard("verify", f"out/{name}", "--key", "signer.pub", "--model", "model/model.pt", cwd=checked)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["report.html", "report.pdf"])
def test_a_report_verifies_alone(checked: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(checked / "out" / name, tmp_path / name)
    ended = midguard("verify", name, "--key", checked / "signer.pub", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout


def test_without_a_trusted_key_nothing_is_valid(checked: Path) -> None:
    ended = midguard("verify", "out/report.pdf", cwd=checked)
    assert ended.returncode == 1
    assert "signed by nobody you named" in ended.stdout


def test_another_key_and_another_model_are_not_valid(checked: Path, tmp_path: Path) -> None:
    midguard("keys", "new", "--out", "other", cwd=tmp_path)
    assert midguard("verify", "out/evidence.json", "--key", tmp_path / "other/signer.pub", cwd=checked).returncode == 1
    (tmp_path / "model.pt").write_bytes((checked / "model/model.pt").read_bytes() + b"\0")
    ended = midguard(
        "verify", "out/evidence.json", "--key", "signer.pub", "--model", tmp_path / "model.pt", cwd=checked
    )
    assert ended.returncode == 1


def test_one_changed_byte_is_enough(checked: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(checked / "out", tmp_path / "out"))
    for name in OUTPUTS:
        content = bytearray((out / name).read_bytes())
        content[len(content) // 2] ^= 1
        (out / name).write_bytes(content)
        assert midguard("verify", f"out/{name}", "--key", checked / "signer.pub", cwd=tmp_path).returncode == 1
        shutil.copy(checked / "out" / name, out / name)


def test_an_unsigned_check_leaves_no_attestation_and_says_so(checked: Path, tmp_path: Path) -> None:
    ended = midguard(
        "check", checked / "policy.yaml", checked / "model/model.pt",
        "--out", tmp_path, "--store", checked / ".midguard", cwd=checked,
    )  # fmt: skip
    assert ended.returncode == 0
    assert "UNSIGNED" in ended.stdout
    assert not (tmp_path / "attestation.intoto.jsonl").exists()
    assert "UNSIGNED" in (tmp_path / "report.html").read_text()


def test_an_encrypted_key_needs_its_passphrase(checked: Path, tmp_path: Path) -> None:
    secret = {"MIDGUARD_KEY_PASSPHRASE": "correct horse"}
    assert midguard("keys", "new", "--passphrase", cwd=tmp_path, **secret).returncode == 0
    command = ("check", checked / "policy.yaml", checked / "model/model.pt", "--key", tmp_path / "signer.key")
    options = ("--store", checked / ".midguard", "--out", tmp_path / "out")
    assert midguard(*command, *options, cwd=checked).returncode == 2
    assert midguard(*command, *options, cwd=checked, **secret).returncode == 0


def test_a_report_is_rendered_again_from_evidence(checked: Path, tmp_path: Path) -> None:
    ended = midguard(
        "report", checked / "out/evidence.json", "--out", tmp_path, "--key", checked / "signer.key", cwd=checked
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "evidence.json").read_bytes() == (checked / "out/evidence.json").read_bytes()
    assert midguard("verify", tmp_path / "report.pdf", "--key", "signer.pub", cwd=checked).returncode == 0


def test_a_plan_runs_nothing(checked: Path) -> None:
    ended = midguard("plan", "policy.yaml", "model/model.pt", "--store", "elsewhere", cwd=checked)
    assert ended.returncode == 0, ended.stderr
    assert "membership.loss" in ended.stdout
    assert not list((checked / "elsewhere").rglob("*.meta"))


SAID = {
    "table": "verdict PASS, exit code 0",
    "json": '"verdict": "pass"',
    "junit": 'failures="0"',
    "sarif": '"results": []',
    "markdown": "midguard: PASS",
}


@pytest.mark.parametrize("output", SAID)
def test_every_format_says_the_same(checked: Path, output: str) -> None:
    ended = midguard("check", "policy.yaml", "model/model.pt", "--format", output, cwd=checked)
    assert ended.returncode == 0
    assert SAID[output] in ended.stdout, ended.stdout


@pytest.mark.parametrize(
    "kind", ["attacks", "measures", "defenses", "formats", "architectures", "accountants", "policies"]
)
def test_everything_can_be_listed(kind: str, tmp_path: Path) -> None:
    ended = midguard("list", kind, cwd=tmp_path)
    assert ended.returncode == 0
    known = {
        "attacks": "membership.loss", "measures": "privacy.epsilon", "defenses": "dp_sgd", "formats": "safetensors",
        "architectures": "resnet8", "accountants": "pld", "policies": "strict",
    }  # fmt: skip
    assert known[kind] in [line.split()[0] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [("check", "nowhere.yaml", "model.pt"), ("check",), ("nonsense",), ("train", "nowhere.yaml", "--out", "x"),
     ("verify", "nowhere.json"), ("report", "nowhere.json", "--out", "x")],
)  # fmt: skip
def test_bad_usage_ends_in_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = midguard(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr
    assert "Traceback" not in ended.stderr


def test_policy_commands(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[1] / "policies" / "baseline.yaml"
    assert "valid" in midguard("policy", "validate", shipped, cwd=tmp_path).stdout
    assert "membership" in midguard("policy", "explain", shipped, cwd=tmp_path).stdout
    assert json.loads(midguard("policy", "schema", cwd=tmp_path).stdout)["$schema"].endswith("2020-12/schema")
    assert midguard("--version", cwd=tmp_path).stdout.startswith("midguard 0.")


def test_midguards_own_failure_is_no_verdict(checked: Path, tmp_path: Path) -> None:
    """The store's folder is a file: nothing can be kept, which is nobody's fault but ends in 4."""
    (tmp_path / "file").write_text("")
    ended = midguard("check", "policy.yaml", "model/model.pt", "--store", tmp_path / "file", cwd=checked)
    assert ended.returncode == 4
    assert "midguard failed" in ended.stderr
    assert "Traceback" not in ended.stderr
    told = midguard(
        "check", "policy.yaml", "model/model.pt", "--store", tmp_path / "file", cwd=checked, MIDGUARD_TRACEBACK="1"
    )
    assert "Traceback" in told.stderr


def test_edited_evidence_is_not_signed(checked: Path, tmp_path: Path) -> None:
    """`report --key` vouches only for what the same key has attested already."""
    out = Path(shutil.copytree(checked / "out", tmp_path / "out"))
    text = (out / "evidence.json").read_text()
    (out / "evidence.json").write_text(
        text.replace('"owner":"privacy-office@example.org"', '"owner":"somebody@example.org"')
    )
    ended = midguard("report", "out/evidence.json", "--out", "again", "--key", checked / "signer.key", cwd=tmp_path)
    assert ended.returncode == 2
    assert "has not attested it" in ended.stderr
    assert midguard("report", "out/evidence.json", "--out", "again", cwd=tmp_path).returncode == 0
    assert "UNSIGNED" in (tmp_path / "again" / "report.html").read_text()


def test_evidence_that_lacks_everything_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text('{"schemaVersion": "1"}')
    assert midguard("report", "evidence.json", "--out", "x", cwd=tmp_path).returncode == 2


def test_an_unwritable_out_is_found_before_the_work(checked: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = midguard("check", "policy.yaml", "model/model.pt", "--out", tmp_path / "file", "--store", "s2", cwd=checked)
    assert ended.returncode == 2
    assert not (checked / "s2").exists()


def test_a_reader_that_goes_away_does_not_change_the_verdict(checked: Path) -> None:
    command = f"{sys.executable} -m midguard.cli check policy.yaml model/model.pt --format json; echo $? > code"
    shell = subprocess.run(["sh", "-c", f"({command}) | true"], cwd=checked, timeout=120, check=False)
    assert shell.returncode == 0
    assert (checked / "code").read_text().strip() == "0"


def test_verify_looks_at_every_file(checked: Path) -> None:
    ended = midguard("verify", "out/evidence.json", "nowhere", "out/report.pdf", "--key", "signer.pub", cwd=checked)
    assert ended.returncode == 2
    assert ended.stdout.count("valid: ") == 2


def test_a_model_in_the_policys_place_is_told_the_order(checked: Path) -> None:
    ended = midguard("check", "model/model.pt", "policy.yaml", cwd=checked)
    assert ended.returncode == 2
    assert "POLICY MODEL" in ended.stderr
