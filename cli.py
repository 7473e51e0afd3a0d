"""The command line: reads arguments, prints results on stdout and progress on stderr, and ends in an exit code."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, assert_never

import typer

from . import __version__
from .engine.errors import Exit, InputError, MidguardError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from .engine.budget import Chain, Entry
    from .engine.check import Checked
    from .engine.keys import Signer
    from .engine.ledger import Ledger
    from .engine.plan import Job
    from .engine.run import Bench, Report

app = typer.Typer(
    name="midguard",
    help="A privacy gate for machine-learning models. What was not measured is never a pass.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
policy_app = typer.Typer(no_args_is_help=True, help="Validate, explain and describe policies.")
keys_app = typer.Typer(no_args_is_help=True, help="Signing keys.")
list_app = typer.Typer(
    no_args_is_help=True, help="What midguard knows: attacks, measures, defenses, formats, policies."
)
budget_app = typer.Typer(no_args_is_help=True, help="The budget of a data set: every release on the same records.")
app.add_typer(policy_app, name="policy")
app.add_typer(keys_app, name="keys")
app.add_typer(list_app, name="list")
ledger_app = typer.Typer(no_args_is_help=True, help="Ledgers from and for other programs.")
app.add_typer(budget_app, name="budget")
app.add_typer(ledger_app, name="ledger")

_SIGN_OF_LIFE = 10.0  # seconds
BUDGET = "MIDGUARD_BUDGET"
PASSPHRASE = "MIDGUARD_KEY_PASSPHRASE"  # the variable's name, no secret


class Profile(StrEnum):
    """Which attacks run without being named."""

    STANDARD = "standard"
    THOROUGH = "thorough"


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"
    MARKDOWN = "markdown"


class Listing(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


#: As `engine/exchange.py` and `engine/ledger.py` name them; said here so that `--help` needs neither.
Program = Literal["opacus", "dp-accounting"]
SamplerName = Literal["poisson", "shuffled", "unknown"]
PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="The policy, a YAML file.", show_default=False)]
ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model; model.yaml stands beside it.", show_default=False)
]
SubjectFile = Annotated[Path | None, typer.Option("--subject", help="The model's description, if not model.yaml.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Repeat an earlier run.", show_default=False)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Draw a new seed even if this work was done before.")]
StoreFolder = Annotated[Path, typer.Option("--store", help="Where raw outcomes are kept (personal data).")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the subject's own code to build its model.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Private key to sign with, from 'midguard keys new'.")]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Where evidence, attestation and reports go.")]
RecordsFile = Annotated[
    Path | None,
    typer.Option(
        "--records", help="Write each record's own risk to this CSV file (personal data).", show_default=False
    ),
]
BudgetStore = Annotated[
    str | None,
    typer.Option(
        "--budget",
        envvar=BUDGET,
        metavar="STORE",
        help="All releases on the data: a SQLite file or a database's URL.",
        show_default=False,
    ),
]
Dataset = Annotated[
    str, typer.Option("--dataset", help="Data sets of this name count together, whatever their digests.")
]
Store = Annotated[str, typer.Argument(metavar="STORE", help="A SQLite file or a database's URL.", show_default=False)]
Head = Annotated[
    str | None, typer.Option("--head", help="A head that was written down; it must still be there.", show_default=False)
]
ProfileName = Annotated[
    Profile, typer.Option("--profile", help="Which attacks run unasked: thorough adds those that want hours or a GPU.")
]
ShowReconstructions = Annotated[
    bool,
    typer.Option(
        "--show-reconstructions", help="Draw records and what was reconstructed of them (personal data) in the report."
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How the result is printed.")]


@app.command()
def check(
    policy: PolicyFile,
    model: ModelFile,
    subject: SubjectFile = None,
    out: OutFolder = None,
    key: KeyFile = None,
    seed: Seed = None,
    fresh: Fresh = False,
    store: StoreFolder = Path(".midguard"),
    trust_code: TrustCode = False,
    records: RecordsFile = None,
    budget: BudgetStore = None,
    budget_head: Annotated[
        str | None, typer.Option("--budget-head", help="A head that the budget's store must hold.", show_default=False)
    ] = None,
    profile: ProfileName = Profile.STANDARD,
    show_reconstructions: ShowReconstructions = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """Attack a model, hold it against a policy, and leave a report. Exit 0: every requirement was shown to hold."""
    from .engine.check import check as run_check

    signer = _signer(key)
    _refuse_unwritable(out)
    if records is not None:
        from .engine.records_file import refuse_unwritable

        refuse_unwritable(records)
    with _progress() as report:
        checked = run_check(
            policy, model, subject=subject, seed=seed, fresh=fresh, store=store, trust_code=trust_code, report=report,
            budget=budget, budget_head=budget_head, profile=profile.value,
            show_reconstructions=show_reconstructions,
        )  # fmt: skip
    _warn_of_pictures(checked.evidence)
    with _listening():
        _print_result(checked, output, signer is not None and out is not None)
    if out is not None:
        _write(checked, out, signer)
    if records is not None:
        _write_records(checked, records)
    raise typer.Exit(int(checked.verdict.exit_code))


@app.command()
def plan(
    policy: PolicyFile,
    model: ModelFile,
    subject: SubjectFile = None,
    seed: Seed = None,
    store: StoreFolder = Path(".midguard"),
    trust_code: TrustCode = False,
    profile: ProfileName = Profile.STANDARD,
) -> None:
    """Print what a check would run, what it could not, and what that costs. Runs nothing."""
    from .engine.check import prepare
    from .reports.terminal import render_plan

    bench = prepare(
        policy, model, subject=subject, seed=seed, store=store, trust_code=trust_code, profile=profile.value
    )
    with _listening():
        render_plan(_plan(bench), _console())


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the model, its description, ledger and data.")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start an unfinished training over; what it spent stays in the ledger.")
    ] = False,
    budget: BudgetStore = None,
    dataset: Dataset = "",
    audit: Annotated[
        bool, typer.Option("--audit", help="Plant canaries and test that training does what its ledger says.")
    ] = False,
) -> None:
    """Train a model from a recipe, or go on with one that was interrupted; `check` needs nothing else than this."""
    model = _train(recipe, out, fresh, budget, dataset, audit)
    typer.echo(model)
    if audit:
        _print_audit(out)


@app.command()
def report(
    evidence: Annotated[Path, typer.Argument(metavar="EVIDENCE", help="An evidence.json.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Where the reports go.")],
    key: KeyFile = None,
    show_reconstructions: ShowReconstructions = False,
) -> None:
    """Render the reports again from evidence; signs only what the same key has attested beside it."""
    from .reports.bundle import write_bundle

    document, signer = _read_evidence(evidence), _signer(key)
    if show_reconstructions:
        _refuse_without_pictures(evidence, document)
    _warn_of_pictures(document)
    if signer is not None:
        _refuse_unattested(evidence, signer)
    _refuse_unwritable(out)
    for file in write_bundle(document, out, signer).files:
        typer.echo(file)


@app.command()
def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Any of the four outputs.", show_default=False)
    ],
    key: Annotated[Path | None, typer.Option("--key", help="The public key (or certificate) that you trust.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The model that the report should be about.")] = None,
) -> None:
    """Check signatures and digests. Exit 0: every file is intact and signed by the key that you named."""
    from .reports.verify import verify as verify_file

    worst = Exit.PASS
    for file in files:
        try:
            verification = verify_file(file, key, model)
        except InputError as error:
            typer.echo(str(error), err=True)
            worst = Exit.BAD_INPUT
            continue
        typer.echo(f"{file}: {verification.summary}")
        for line in verification.lines:
            typer.echo(f"  {line}")
        for missing in verification.missing:
            typer.echo(f"  not looked at: {missing} is not there")
        worst = max(worst, Exit(verification.exit_code))
    raise typer.Exit(int(worst))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of everything the demo makes.")] = Path("midguard-demo"),
    seed: Annotated[int | None, typer.Option("--seed", help="Of both trainings and checks; fresh otherwise.")] = None,
) -> None:
    """Train a careless and a careful model on handwritten digits, check both, and leave two signed reports."""
    from .engine.check import check as run_check
    from .engine.demo import CASES, lay_out, model_of, recipe_of
    from .engine.keys import load_signer, new_key

    _say(f"laying out {out}")
    lay_out(out, seed)
    key = out / "signer.key"
    signer = load_signer(key if key.exists() else new_key(out, "midguard demo", None), None)
    as_expected = True
    for case in CASES:
        _train(recipe_of(out, case), out / case.name)
        with _progress() as told:
            checked = run_check(
                out / "policy.yaml", model_of(out, case), seed=seed, store=out / ".midguard", report=told
            )  # fmt: skip
        _print_result(checked, Format.TABLE, signed=True)
        _write(checked, out / case.name, signer)
        as_expected &= case.expects(checked.verdict)
        typer.echo("")
    _close_demo(out, as_expected)


def _close_demo(out: Path, as_expected: bool) -> NoReturn:
    if as_expected:
        typer.echo("The careless model fails on membership and inversion, the careful one passes every requirement.")
        typer.echo(f"Look at {out}/careless/report.pdf and {out}/careful/report.pdf; then try:")
        typer.echo(f"  midguard check {out}/policy.yaml {out}/careless/model.pt --store {out}/.midguard")
        typer.echo(f"  midguard verify {out}/careful/report.pdf --key {out}/signer.pub --model {out}/careful/model.pt")
        raise typer.Exit(int(Exit.PASS))
    typer.echo("The verdicts did not come out as they must.", err=True)
    raise typer.Exit(int(Exit.CRASHED))


@policy_app.command("validate")
def policy_validate(policy: PolicyFile) -> None:
    """Check a policy without running anything."""
    from .engine.policy import load_policy

    loaded = load_policy(policy)
    count = len(loaded.requirements)
    typer.echo(f"{policy}: valid, {count} requirement{'s' if count != 1 else ''}")


@policy_app.command("explain")
def policy_explain(policy: PolicyFile) -> None:
    """Say in plain words what a policy demands."""
    from .engine.policy import explain, load_policy

    typer.echo(explain(load_policy(policy)))


@policy_app.command("schema")
def policy_schema() -> None:
    """Print the JSON Schema of policies, for editors."""
    from .engine.policy import schema

    typer.echo(json.dumps(schema(), indent=2, ensure_ascii=False))


@keys_app.command("new")
def keys_new(
    out: Annotated[Path, typer.Option("--out", help="Folder for signer.key, signer.crt and signer.pub.")] = Path(),
    name: Annotated[str, typer.Option("--name", help="Who signs, as the PDF will say.")] = "midguard signer",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help=f"Encrypt the key; asked for, or taken from {PASSPHRASE}.")
    ] = False,
) -> None:
    """Make a signing key (P-256) with a self-signed certificate."""
    from .engine.keys import load_signer, new_key

    secret = _new_passphrase() if passphrase else None
    path = new_key(out, name, secret)
    typer.echo(f"{path}: keep it secret")
    typer.echo(f"{path.with_suffix('.pub')}: give it to whoever verifies, by another way than the reports")
    typer.echo(f"fingerprint {load_signer(path, secret).fingerprint}")


@ledger_app.command("import")
def ledger_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An accountant's state, checkpoint or events.", show_default=False)
    ],
    origin: Annotated[Program, typer.Option("--from", help="Which program wrote it.", show_default=False)],
    model: Annotated[Path, typer.Option("--model", help="The model that came out; model.yaml stands beside it.")],
    out: Annotated[Path, typer.Option("--out", help="The ledger to write; an existing file is left as it is.")],
    subject: SubjectFile = None,
    sampler: Annotated[
        SamplerName, typer.Option("--sampler", help="How records were chosen; no program writes that down.")
    ] = "unknown",
    evidence: Annotated[
        str, typer.Option("--evidence", help="What shows the sampler. Without it, no sampling is counted.")
    ] = "",
    clipping_norm: Annotated[float, typer.Option("--clipping-norm", help="Of the training; it changes no cost.")] = 1.0,
) -> None:
    """Make a ledger of a training that another program accounted for: a declaration, since midguard did not see it."""
    from .engine.exchange import Circumstances, Origin, imported, read_events
    from .engine.ledger import Sampler
    from .engine.subject import load_subject

    if not 0 < clipping_norm < float("inf"):
        raise InputError.of(f"--clipping-norm {clipping_norm}: expected a number above 0")
    told, program = Circumstances(Sampler(sampler), evidence, clipping_norm), Origin(origin)
    events = read_events(file, program, told)
    _write_new(out, imported(load_subject(model, subject), events, program).to_json())
    counted = "counted" if told.sampler is Sampler.POISSON and evidence.strip() else "not counted, for nothing shows it"
    typer.echo(f"{out}: {len(events)} kinds of events; sampling is {counted}. Name it in model.yaml (spec.ledger)")


@ledger_app.command("export")
def ledger_export(
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger.json of a model.", show_default=False)],
    program: Annotated[Program, typer.Option("--to", help="Which program will read it.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The file to write; an existing one is left as it is.")],
) -> None:
    """Write what a ledger says in another program's words; what may not be counted as sampled is not."""
    from .engine.exchange import Origin, exported
    from .engine.ledger import read_ledger

    _write_new(out, exported(read_ledger(ledger), Origin(program)))
    typer.echo(str(out))


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet.

    Raises:
        InputError: It is there, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError.of(f"{path}: there is a file already", "name another one, or take it away") from error
    except OSError as error:
        raise InputError.of(f"{path}: cannot be written ({error.strerror})") from error


@budget_app.command("new")
def budget_new(store: Store) -> None:
    """Make an empty store; every other command wants one that is there, so that no misspelt name is an empty budget."""
    from .engine.budget import new_budget

    typer.echo(f"{new_budget(store).place.shown}: an empty budget")


@budget_app.command("add")
def budget_add(
    store: Store,
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger.json of a model.", show_default=False)],
    dataset: Dataset = "",
) -> None:
    """Write down a release that was trained without this store; one that is there already stays one."""
    from .engine.budget import open_budget
    from .engine.ledger import read_ledger

    entry = open_budget(store).add(read_ledger(ledger), dataset)
    typer.echo(f"entry {entry.sequence} holds this release; head {entry.hash}")


@budget_app.command("show")
def budget_show(
    store: Store,
    data: Annotated[str, typer.Option("--data", help="Only data whose digest begins so.")] = "",
    delta: Annotated[float | None, typer.Option("--delta", help="Add ε of all releases at this δ.")] = None,
    output: Annotated[Listing, typer.Option("--format", help="How the result is printed.")] = Listing.TABLE,
) -> None:
    """List what was released on each data set, and what it cost together."""
    from .engine.budget import open_budget

    chain = open_budget(store).chain()
    held = dict.fromkeys(entry.data for entry in chain.entries if entry.data.startswith(data))
    found = [_data_set(chain, digest, delta) for digest in held]
    head = {"entries": chain.head.entries, "head": chain.head.hash}
    if output is Listing.JSON:
        typer.echo(json.dumps(head | {"datasets": found}, indent=2, ensure_ascii=False, allow_nan=False))
        return
    for line in (line for one in found for line in _lines(one)):
        typer.echo(line)
    typer.echo(f"{head['entries']} entries, head {head['head']}")


@budget_app.command("verify")
def budget_verify(store: Store, head: Head = None) -> None:
    """Check the whole chain. Exit 0: nothing was edited, taken away, put in or moved, and the head is in it."""
    from .engine.budget import BrokenChainError, open_budget

    budget = open_budget(store)
    try:
        chain = budget.chain()
        if head is not None:
            chain.refuse_without(head)
    except BrokenChainError as error:
        typer.echo(f"not valid: {error}")
        raise typer.Exit(int(Exit.FAIL)) from None
    typer.echo(f"valid: {chain.head.entries} entries, head {chain.head.hash}")
    if head is None:
        typer.echo("write the head down elsewhere: only with --head is it seen that the end was cut off")


def _data_set(chain: Chain, data: str, delta: float | None) -> dict[str, object]:
    """What was released on one data set, as it is printed."""
    from .engine.budget import spending

    spent = spending(chain, data)
    cost = {} if delta is None else _cost(spent.ledgers, delta)
    return {"data": data, "releases": [_release(entry) for entry in spent.counted], **cost}


def _release(entry: Entry) -> dict[str, object]:
    names = ("sequence", "kind", "time", "data", "model", "dataset")
    return {name: getattr(entry, name) for name in names} | {"ledger": entry.ledger_digest}


def _cost(ledgers: tuple[Ledger, ...], delta: float) -> dict[str, object]:
    """ε of all releases, as a policy would measure it; why there is none where there is none."""
    from .engine.errors import NotMeasurable
    from .engine.evidence import number
    from .engine.ledger import Account
    from .engine.measures.privacy.cumulative_epsilon import CumulativeEpsilon

    try:
        measure = CumulativeEpsilon(delta=delta, basis="declared")
        found = measure.measure(Account(ledgers[-1], None, ledgers), 0.0)
    except (ValueError, NotMeasurable) as error:
        raise InputError.of(f"--delta {delta:g}: {error}") from error
    return {"delta": delta, **number(found.value, "epsilon"), "basis": str(found.basis)}


def _lines(data_set: dict[str, Any]) -> Iterator[str]:
    """One data set in words."""
    releases = data_set["releases"]
    yield f"data {data_set['data']}: {len(releases)} release{'s' if len(releases) != 1 else ''}"
    for release in releases:
        named = f"  data set {release['dataset']}" if release["dataset"] else ""
        model = "no model yet" if release["kind"] == "reserved" else f"model {release['model'][:12]}"
        line = f"{release['sequence']:>6}  {release['kind']:8}  {release['time']}  {model}"
        yield f"{line}  ledger {release['ledger'][:12]}{named}"
    if "epsilon" in data_set:
        bound = "no bound on ε" if data_set["epsilon"] is None else f"ε ≤ {data_set['epsilon']:.4g}"
        yield f"        together {bound} at δ = {data_set['delta']:g} ({data_set['basis']})"


def _lister(kind: str) -> None:
    @list_app.command(kind, help=f"The {kind} that midguard knows.")
    def _list() -> None:
        for name, summary in _known(kind):
            typer.echo(f"{name:32} {summary}")


for _kind in ("attacks", "measures", "defenses", "formats", "architectures", "accountants", "policies"):
    _lister(_kind)


def _known(kind: str) -> Iterator[tuple[str, str]]:
    from .engine import registry

    if kind == "policies":
        folder = Path(__file__).parent / "policies"
        yield from ((path.stem, str(path)) for path in sorted(folder.glob("*.yaml")))
    else:
        yield from ((name, registry.summary(registry.load(kind, name))) for name in registry.names(kind))
    if kind == "attacks":  # they are mounted on a training, not on a model: `train --audit`
        for name in registry.names("audits"):
            yield f"audit.{name}", registry.summary(registry.load("audits", name))


def _print_audit(out: Path) -> None:
    """What the evidence tests said. Exit 1: the training is not what its ledger says."""
    from .engine.folder import audited

    result = audited(out)
    if result is None:
        raise MidguardError(f"{out}: the audit was not written")
    for test in result.tests:
        word = "REFUTED" if test.refuted else "held" if test.conclusive else "inconclusive"
        _say(f"audit.{test.name}: {word}: {test.detail}")
    planted = result.planted
    _say(
        f"the model carries {planted.records_in} of {planted.records} canary records and up to {planted.gradients} "
        "canary gradients"
    )
    if result.refuted:
        raise typer.Exit(int(Exit.FAIL))


def _train(
    recipe: Path,
    out: Path,
    fresh: bool = False,
    budget: str | None = None,
    dataset: str = "",
    audit: bool = False,
) -> Path:
    from .engine.epochs import Epoch
    from .engine.training import train as run_train

    with _progress() as told:

        def progress(epoch: Epoch, total: int) -> None:
            spent = "" if epoch.epsilon is None else f", ε {epoch.epsilon:.2f}"
            which = "public epoch" if epoch.public else "epoch"
            what = f"{which} {epoch.number}/{total}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.1%}{spent}"
            told(what, epoch.number / total)

        try:
            return run_train(recipe, out, progress, tell=_say, fresh=fresh, budget=budget, dataset=dataset, audit=audit)
        except KeyboardInterrupt:
            _say("interrupted: the same command goes on where it was, --fresh starts over")
            raise


def _write(checked: Checked, out: Path, signer: Signer | None) -> None:
    from .reports.bundle import write_bundle

    _say("rendering the reports")
    for file in write_bundle(checked.evidence, out, signer).files:
        _say(f"wrote {file}")
    if signer is None:
        _say("unsigned: name a key with --key to sign")


def _write_records(checked: Checked, path: Path) -> None:
    from .engine.records_file import write_records

    try:
        write_records(path, checked.outcomes, checked.records)
    except InputError as error:  # the verdict stands all the same
        _say(str(error))
        return
    _say(f"wrote {path}: it says of single records how likely they are members. Personal data: pass it to nobody.")


def _print_result(checked: Checked, output: Format, signed: bool) -> None:
    evidence = {**checked.evidence, "signed": signed}
    match output:
        case Format.TABLE:
            from .reports.terminal import render_table

            render_table(evidence, _console())
        case Format.JSON:
            typer.echo(json.dumps(evidence, indent=2, ensure_ascii=False, allow_nan=False))
        case Format.JUNIT:
            from .reports.junit import render_junit

            typer.echo(render_junit(evidence), nl=False)
        case Format.SARIF:
            from .reports.sarif import render_sarif

            typer.echo(render_sarif(evidence, passes=False), nl=False)  # code scanning shows a pass as an alert
        case Format.MARKDOWN:
            from .reports.markdown import render_markdown

            typer.echo(render_markdown(evidence), nl=False)
        case _:
            assert_never(output)


def _plan(bench: Bench) -> Mapping[str, object]:
    """The plan as the terminal prints it."""
    from .engine.run import stored

    jobs = [
        {
            "attack": job.name,
            "role": "subject, twin, null",
            "parameters": json.loads(job.parameters),
            "seed": str(job.seed),
            "queries": job.queries,
            "references": job.references,
            "cached": stored(bench, job),
        }
        for job in bench.plan.jobs
    ]
    behind = {job.identity: job for jobs in bench.plan.opened.values() for job in jobs}
    jobs += [
        {
            "attack": job.name,
            "role": "subject behind an open interface",
            "parameters": json.loads(job.parameters),
            "seed": str(job.seed),
            "queries": job.queries,
            "references": job.references,
            "cached": False,
        }
        for job in behind.values()
    ]
    obstacles = [
        {"attack": o.attack, "requirement": a.requirement.id, "reason": o.reason}
        for a in bench.plan.assignments
        for o in a.obstacles
    ]
    missing = [
        {"attack": "", "requirement": a.requirement.id, "reason": a.missing}
        for a in bench.plan.assignments
        if a.missing
    ]
    training = sorted({control for job in bench.plan.jobs for control in _trained(job)})
    return {
        "jobs": jobs,
        "obstacles": obstacles + missing,
        "training": [*training, *_references(bench)],
        "lacking": _lacking(bench),
        "seconds": None,
    }


def _references(bench: Bench) -> list[str]:
    """The models that would be trained by the subject's recipe, and what that takes at most."""
    from .engine.reference import estimate

    plan = bench.plan
    if plan.no_references or not any(job.name.startswith("membership.") for job in plan.jobs):
        return []
    cost = estimate(bench.recipe, len(bench.pool), 2 + plan.references)
    work = f"{cost.models} models by the subject's recipe, two of them for the null, less those in the store"
    processes = f"{cost.processes} process{'es' if cost.processes > 1 else ''}"
    memory = f"about {cost.bytes / 1e6:,.0f} MB of memory"
    return [f"{work}: {cost.steps:,} steps in all, up to {cost.chunk} models at a time in {processes}, {memory}"]


def _lacking(bench: Bench) -> str:
    """Why no reference models can be trained, and which attacks that costs; empty where it costs none."""
    from .engine.evidence import references_would_add

    added = references_would_add(bench.plan)
    return f"{bench.plan.no_references}; reference models would add {', '.join(added)}" if added else ""


def _trained(job: Job) -> tuple[str, ...]:
    """The control models that a job needs."""
    kind = job.name.split(".", maxsplit=1)[0]
    null = () if job.attack.threat.goal == "record-reconstruction" else (f"{kind} null",)
    return (f"{kind} twin", *null)


def _signer(key: Path | None) -> Signer | None:
    if key is None:
        return None
    from .engine.keys import load_signer

    secret = os.environ.get(PASSPHRASE)
    if secret is None and sys.stdin.isatty() and key.is_file() and b"ENCRYPTED" in key.read_bytes()[:64]:
        secret = typer.prompt("Passphrase", hide_input=True, err=True)
    return load_signer(key, secret.encode() if secret else None)


def _new_passphrase() -> bytes:
    given = os.environ.get(PASSPHRASE)
    if given is None:
        given = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))
    if not given:
        raise InputError.of("the passphrase is empty", "leave --passphrase out for a key without one")
    return given.encode()


def _read_evidence(path: Path) -> Mapping[str, object]:
    from .reports.evidence import read

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.of(f"{path}: not an evidence file: {error}") from error
    if not isinstance(document, dict) or document.get("schemaVersion") != "1":
        raise InputError.of(
            f"{path}: not an evidence file of schemaVersion 1", "name an evidence.json that check wrote"
        )
    read(document)
    return document


def _refuse_unattested(evidence: Path, signer: Signer) -> None:
    """Refuse to vouch for evidence that this key has not vouched for already: somebody may have edited it."""
    from .reports.verify import verify as verify_file

    with tempfile.TemporaryDirectory() as folder:
        trusted = Path(folder) / "signer.pub"
        trusted.write_bytes(signer.public_pem)
        verification = verify_file(evidence, trusted, None)
    if not verification.valid:
        hint = "render it without --key, or run check again with the key: it takes its outcomes from the store"
        raise InputError.of(f"{evidence}: this key has not attested it ({verification.summary})", hint)


def _refuse_without_pictures(path: Path, evidence: Mapping[str, Any]) -> None:
    """Refuse to add pictures to evidence that was made without: it would be another document, attested by nobody."""
    from .reports.inversion import holds_pictures

    if holds_pictures(evidence):
        return
    policy, model, seed = evidence["policy"]["file"], evidence["subject"]["file"], evidence["seed"]
    again = f"midguard check {policy} {model} --seed {seed} --show-reconstructions"
    raise InputError.of(
        f"{path}: it was made without pictures, and adding them would make it another document than what was attested",
        f"run `{again}` with the same store: it takes the outcomes from there and attacks nothing anew",
    )


def _warn_of_pictures(evidence: Mapping[str, object]) -> None:
    from .reports.inversion import holds_pictures

    if holds_pictures(evidence):
        _say("the report and its evidence show records and what was reconstructed of them. Personal data: pass them "
             "only to those who may see the records.")  # fmt: skip


def _refuse_unwritable(out: Path | None) -> None:
    """Find out before hours of work whether their outcome can be written."""
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError.of(
            f"{out}: reports cannot be written there: {error}", "name another folder with --out"
        ) from error


def _console() -> Console:
    """Standard output; rich is imported only where a table is printed."""
    from rich.console import Console

    return Console()


def _say(what: str) -> None:
    typer.echo(what, err=True)


@contextmanager
def _progress() -> Iterator[Report]:
    """A progress bar on a terminal, one line for each step elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=1.0)
            yield lambda what, share: bar.update(task, description=what, completed=share)
    else:
        yield _Teller().tell


class _Teller:
    """One line when another step begins, and a sign of life every ten seconds of a long one."""

    def __init__(self) -> None:
        self._step, self._said = "", 0.0

    def tell(self, what: str, share: float) -> None:
        step = re.sub(r"[\d.,/%]+", "", what)
        now = time.monotonic()
        if step != self._step or now - self._said > _SIGN_OF_LIFE or (share >= 1.0 and ":" in what):
            _say(what if share in {0.0, 1.0} or ":" in what else f"{what}, {share:.0%}")
            self._step, self._said = step, now


@contextmanager
def _listening() -> Iterator[None]:
    """Go on where nobody reads the result any more: the exit code is the verdict's, not the closed pipe's."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(show: bool) -> None:
    if show:
        typer.echo(f"midguard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A privacy gate for machine-learning models. What was not measured is never a pass."""


def main() -> None:
    """Run the command line; every way it can end has its exit code."""
    # Networks this small lose more to waiting threads than they win: on two busy cores one thread was ten times faster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except MidguardError as error:
        typer.echo(f"midguard: {error}" if not isinstance(error, InputError) else str(error), err=True)
        _trace()
        sys.exit(int(error.exit_code))
    except Exception as error:  # anything else is midguard's own failure, and must not look like a verdict
        typer.echo(f"midguard failed: {type(error).__name__}: {error}", err=True)
        typer.echo("Set MIDGUARD_TRACEBACK=1 to see where.", err=True)
        _trace()
        sys.exit(int(Exit.CRASHED))


def _trace() -> None:
    if os.environ.get("MIDGUARD_TRACEBACK"):
        traceback.print_exc()


if __name__ == "__main__":
    main()
