"""The command `danqing`: arguments in, one function of the toolkit called, an exit code out.

0 done, 1 the work failed or is incomplete, 2 the command or the configuration is wrong. Errors are one paragraph;
a traceback only with --debug. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit import __version__
from toolkit.errors import UserError, WorkError

app = typer.Typer(
    name="danqing",
    help="Build image-text datasets from Common Crawl: raw crawl files in, a clean deduplicated dataset out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML configuration.", show_default=False)]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one option; repeatable.", show_default=False)
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="With slurm: end when the jobs have ended.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (schemas in docs/formats.md).")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors (taken at any place).")] = False,
) -> None:
    """Build image-text datasets from Common Crawl: raw crawl files in, a clean deduplicated dataset out."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    del debug  # taken out by `main`, which must know it before arguments are parsed


@app.command()
def run(
    config: ConfigPath,
    sets: Sets = None,
    executor: Annotated[str | None, typer.Option(help="inline, local or slurm; overrides executor.kind.")] = None,
    until: Until = None,
    wait: Wait = False,
) -> None:
    """Run the pipeline, or go on with it: what is done is not done again. With slurm: submit it."""
    _drive(_load(config, [*(sets or []), *([f"executor.kind={executor}"] if executor else [])]), until, wait)


def _drive(config: Any, until: str | None, wait: bool = True) -> Any:
    """Create or continue a run and bring it as far as it goes; return it."""
    from toolkit.run.run import create

    _check(config)
    opened = create(config)
    _finish(opened, until, wait)
    return opened


def _finish(opened: Any, until: str | None, wait: bool = True) -> None:
    """Bring a run that this process holds as far as it goes, here or by jobs."""
    if until is not None:
        _stage_of(opened, until)
    if opened.config.executor.kind == "slurm":
        _submit(opened, until, wait)
    else:
        _alone(opened)
        _work(opened, until)


def _alone(opened: Any) -> None:
    """Refuse to work on a run while jobs on a cluster do."""
    if opened.layout.jobs.exists():
        from toolkit.run.advance import idle

        idle(opened)


def _submit(opened: Any, until: str | None, wait: bool) -> None:
    from toolkit.report.display import step_lines
    from toolkit.run import advance

    opened.free()
    advance.resume(opened)
    step = advance.hold(opened, until)
    for line in step_lines(opened, step):
        typer.echo(line)
    if wait and not (step.ended or step.cancelled):
        step = _wait(opened, until)
        for line in step_lines(opened, step):
            typer.echo(line)
    _ended(opened, step)


def _wait(opened: Any, until: str | None) -> Any:
    """Show how far the jobs are until they have ended; return the last step."""
    from toolkit.report.logs import command
    from toolkit.report.watch import watch
    from toolkit.run import advance

    root = opened.layout.root
    try:
        with watch(opened) as show:
            return advance.finish(opened, until, show)
    except KeyboardInterrupt:
        raise WorkError(
            f"Interrupted, but the jobs go on. `{command('status', root)}` shows how far they are, "
            f"`{command('cancel', root)}` calls them back."
        ) from None


def _ended(opened: Any, step: Any) -> None:
    """End with 1 where a run on a cluster is as far as it goes and not complete."""
    from toolkit.report.logs import command

    root = opened.layout.root
    again = f"`danqing run CONFIG` or `{command('retry', root)}` goes on; finished work is kept."
    if step.cancelled:
        raise WorkError(f"The run was called back: {step.cancelled}. {again}")
    if step.ended and not step.outcome.complete:
        raise WorkError(f"{_incomplete(step.outcome, again)} `{command('logs', root)}` shows why.")


def _work(opened: Any, until: str | None) -> None:
    from toolkit.report.display import display
    from toolkit.run import signals
    from toolkit.run.drive import drive

    signals.reset()
    signals.listen(signals.INTERRUPT)
    outcome = drive(opened, show := display(opened), until)
    show.close(opened, outcome)
    if not outcome.complete:
        raise WorkError(_incomplete(outcome))


def _incomplete(outcome: Any, again: str = "Run the same command again to go on; finished work is kept.") -> str:
    if outcome.stopped:
        return f"Stopped before the end, as asked. {again}"
    named = [f"{stage} {unit:06d}: {reason.rstrip('.')}" for (stage, unit), reason in list(outcome.aside.items())[:5]]
    failed = f"{len(outcome.aside)} units failed and were set aside: {'; '.join(named)}. " if named else ""
    waiting = f"Not run for want of input: {'; '.join(outcome.waiting[:3])}. " if outcome.waiting else ""
    return f"{failed}{waiting}Mend the cause. {again}"


def _tried(outcome: Any) -> str:
    if outcome.stopped:
        return "Stopped before the end, as asked; finished work is kept."
    failed = f"{len(outcome.aside)} units failed, as said above. " if outcome.aside else ""
    waiting = f"Not run for want of input: {'; '.join(outcome.waiting[:3])}. " if outcome.waiting else ""
    return f"{failed}{waiting}On a cluster the run tries again by itself; by hand, give the same command again."


@app.command()
def plan(config: ConfigPath, sets: Sets = None, as_json: Json = False) -> None:
    """Check everything and show what a run would do; start nothing."""
    from toolkit.report.display import plan_lines
    from toolkit.run.plan import plan as make
    from toolkit.run.plan import tree
    from toolkit.run.run import look

    opened = look(_load(config, sets))
    _check(opened.config)
    rows, cluster = make(opened), None
    if opened.config.executor.kind == "slurm":
        from toolkit.run.forecast import forecast

        cluster = forecast(opened, rows)
    _print(tree(opened, rows, cluster), as_json, plan_lines)


@app.command()
def status(run_folder: RunPath, as_json: Json = False) -> None:
    """Show how far a run is, what failed, and what was damaged in its input."""
    from toolkit.report.status import lines
    from toolkit.report.status import status as state
    from toolkit.run.run import open_run

    _print(state(open_run(run_folder)), as_json, lines)


@app.command()
def logs(
    run_folder: RunPath,
    name: Annotated[
        str | None, typer.Argument(metavar="STAGE", help="A stage, or advance.", show_default=False)
    ] = None,
    unit: Annotated[
        int | None, typer.Argument(metavar="SHARD", help="A unit, as `status` names it.", show_default=False)
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=0, help="Last lines of a log that are shown.")] = 20,
) -> None:
    """Show what failed and why, and the end of the log that tells of it."""
    from toolkit.report import logs as said
    from toolkit.run.records import ADVANCE
    from toolkit.run.run import open_run

    opened = open_run(run_folder)
    if name is None:
        found = said.overview(opened)
    elif name == ADVANCE:
        found = said.of_advance(opened, lines)
    elif unit is None:
        found = said.of_stage(opened, _stage_of(opened, name), lines)
    else:
        found = said.of_unit(opened, _stage_of(opened, name), unit, lines)
    for line in found:
        typer.echo(line)


@app.command()
def funnel(run_folder: RunPath, as_json: Json = False) -> None:
    """Show the pairs that each step left, beside the paper's counts."""
    from toolkit.report.display import funnel_lines
    from toolkit.run.funnel import funnel as rows
    from toolkit.run.funnel import tree
    from toolkit.run.run import open_run

    _print(tree(rows(open_run(run_folder))), as_json, funnel_lines)


@app.command()
def report(run_folder: RunPath) -> None:
    """Write RUN/report.html: the funnel, and a sample of what each step dropped and of what was kept."""
    from toolkit.report.page import write
    from toolkit.run.run import open_run

    typer.echo(write(open_run(run_folder)))


@app.command()
def why(
    run_folder: RunPath,
    key: Annotated[str, typer.Argument(metavar="ID_OR_URL", help="A pair's id or its image URL.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Follow one pair through every stage, with everything that was measured."""
    from toolkit.report.why import lines
    from toolkit.report.why import why as stories
    from toolkit.run.run import open_run

    found = list(stories(open_run(run_folder), [key]))
    if not found:
        raise WorkError(
            f"No pair with the id or URL {key!r} is in {run_folder}: it was not in the input, or not read yet."
        )
    _print(found, as_json, lambda tree: (line for story in tree for line in lines(story)))


@app.command()
def verify(run_folder: RunPath, as_json: Json = False) -> None:
    """Prove that every published byte is right; exit 1 names each shard that is not."""
    from dataclasses import asdict

    from toolkit.run.run import open_run
    from toolkit.run.verify import verify as problems

    opened = open_run(run_folder)
    found = list(problems(opened))
    tree = {"run_dir": str(opened.layout.root), "sound": not found, "problems": [asdict(p) for p in found]}
    _print(
        tree, as_json, lambda _: [*map(str, found), f"{opened.layout.root}: {'sound' if not found else 'not sound'}"]
    )
    if found:
        raise WorkError(f"{len(found)} problems; `danqing repair {run_folder}` mends them.")


@app.command()
def repair(run_folder: RunPath, wait: Wait = False) -> None:
    """Verify, redo each unit that is missing or damaged, and what depends on it where its bytes came out different."""
    from toolkit.run.run import open_run
    from toolkit.run.verify import repair as mend

    opened = open_run(run_folder)
    opened.hold()
    _alone(opened)
    for problem in mend(opened):
        typer.echo(f"found {problem}")
    opened.forget()
    _finish(opened, None, wait)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stage, e.g. source, text, fetch.", show_default=False)],
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="PATH_OR_GLOB", help="Input; repeatable.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", metavar="PATH", help="Output file.", show_default=False)],
    config: Annotated[str | None, typer.Option("--config", metavar="CONFIG", help="Its section NAME is read.")] = None,
    sets: Sets = None,
) -> None:
    """Run one stage on plain files, without a run folder."""
    from toolkit.config.config import alone, expand
    from toolkit.report.display import stage_lines, working
    from toolkit.run import mpi, signals
    from toolkit.run.plain import run_stage

    with mpi.guard(world := mpi.world()):
        _shared(_stage(name), world)
        loaded = alone(name, config, sets or [])
        if name in ("fetch", "hosts"):
            _check(loaded)
        paths = dict.fromkeys(Path(path) for pattern in inputs for path in expand(pattern, "--input"))
        signals.interrupt()
        if world.rank:
            run_stage(name, list(paths), output, loaded, world)
            return
        with working(name) as advance:
            task = run_stage(name, list(paths), output, loaded, world, on_advance=advance)
    for line in stage_lines(task):
        typer.echo(line)
    if task.broken:
        raise WorkError(f"{len(task.broken)} inputs could not be read, and are named above; the others are done.")


@app.command()
def task(
    run_folder: RunPath,
    name: Annotated[str, typer.Argument(metavar="STAGE", help="Stage.", show_default=False)],
    units: Annotated[
        str, typer.Option("--units", help="Units, e.g. 0-99,120; the default is all that are missing.")
    ] = "",
    part: Annotated[str, typer.Option("--part", metavar="I/N", help="Of these, part I of N, counted from 0.")] = "0/1",
) -> None:
    """Try units of one stage once each, in this process: what a job runs."""
    from toolkit.report.display import Log
    from toolkit.run import executors, job, mpi, signals
    from toolkit.run.run import open_run

    with mpi.guard(world := mpi.world()):
        opened = open_run(run_folder)
        stage = _shared(_stage_of(opened, name), world)
        chosen = job.part(job.numbers(units, opened.all_units(stage)), part)
        signals.reset()
        signals.listen(signals.INTERRUPT)
        if world.rank:
            executors.follow(opened, world)
            return
        outcome = job.work(opened, stage, chosen, Log(opened), world)
    for line in job.leave(opened) if outcome.stopped else ():
        typer.echo(line)
    if not outcome.complete:
        raise WorkError(_tried(outcome))


@app.command()
def advance(run_folder: RunPath, until: Until = None) -> None:
    """Submit what comes next in a run on a cluster: what the small job behind each stage runs."""
    from toolkit.report.display import step_lines
    from toolkit.run import advance as steps
    from toolkit.run.run import open_run

    opened = open_run(run_folder)
    step = steps.patient(opened, until)
    for line in step_lines(opened, step):
        typer.echo(line)
    _ended(opened, step)


@app.command()
def retry(
    run_folder: RunPath,
    until: Until = None,
    wait: Wait = False,
) -> None:
    """Give what was set aside its attempts anew, after its cause was mended, and go on with the run."""
    from toolkit.run.run import open_run

    opened = open_run(run_folder)
    _check(opened.config)
    opened.hold()
    _finish(opened, until, wait)


@app.command()
def cancel(run_folder: RunPath) -> None:
    """Call back all jobs of a run on a cluster; what is finished is kept, `danqing run` goes on."""
    from toolkit.report.display import cancel_lines
    from toolkit.run import advance as steps
    from toolkit.run.run import open_run

    opened = open_run(run_folder)
    for line in cancel_lines(opened, steps.cancel(opened)):
        typer.echo(line)


@app.command()
def clean(
    run_folder: RunPath,
    keep: Annotated[str, typer.Option(metavar="A,B", help="Stages whose data stays.")] = "export,features",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
) -> None:
    """Remove the data of a complete run that is no longer needed, after verifying it; its marks stay."""
    from toolkit.report.display import clean_lines
    from toolkit.run import clean as cleaning
    from toolkit.run.run import open_run

    opened = open_run(run_folder)
    if yes:
        opened.hold()
        _alone(opened)
    for line in clean_lines(cleaning.clean(opened, keep) if yes else cleaning.room(opened, keep), yes):
        typer.echo(line)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where crawl and run lie.")] = Path("runs/demo"),
    make_only: Annotated[
        Path | None, typer.Option("--make-only", metavar="DIR", help="Only make the crawl, there.", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs in the crawl.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed makes the same bytes.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="all processors")] = None,
) -> None:
    """Make a small crawl, serve it on loopback, run everything, and score the result against what was planted."""
    from toolkit.demo import show
    from toolkit.report.display import making

    crawl = make_only or folder / "crawl"
    with making(pairs) as advance:
        made = show.crawl(crawl.absolute(), pairs, seed, advance)
    typer.echo(f"{made['pairs']:,} pairs on {made['pages']:,} pages in {crawl}, {made['pictures']:,} pictures drawn")
    if make_only:
        return
    with show.served(crawl.absolute()) as port:
        opened = _drive(show.recipe(crawl.absolute(), folder / "run", port, workers), None)
    typer.echo("\nPlanted defects and what the steps found:")
    for line in show.lines(show.judge(opened, crawl)):
        typer.echo(line)
    # `make demo` does not put .venv/bin on the PATH.
    name = "danqing" if any(Path(p, "danqing").exists() for p in os.get_exec_path()) else sys.argv[0]
    typer.echo(f"\nTry next:\n  {name} report {folder / 'run'}\n  {name} status {folder / 'run'}")
    typer.echo(f"  {name} why {folder / 'run'} ID_OR_URL    (URLs stand in {crawl / 'truth.jsonl'})")


def _stage(name: str) -> Any:
    from toolkit.recipe import BY_NAME

    if name not in BY_NAME:
        raise UserError(f"There is no stage {name!r}; the stages are {', '.join(BY_NAME)}.")
    return BY_NAME[name]


def _shared(stage: Any, world: Any) -> Any:
    """Return the stage; raises UserError where several ranks were started for one that they do not share."""
    from toolkit.data.stage import Kind

    if world.size > 1 and stage.kind is not Kind.COLLECTIVE:
        raise UserError(
            f"The stage {stage.name} was started as {world.size} MPI ranks; only dedup and merge are shared by ranks. "
            "Start it as one process."
        )
    return stage


def _stage_of(opened: Any, name: str) -> Any:
    stage = _stage(name)
    if stage not in opened.stages:
        raise UserError(f"This run has no stage {name}: its configuration leaves it out.")
    return stage


def _load(config: str, sets: list[str] | None) -> Any:
    from toolkit.config import load

    return load(config, sets or [])


def _check(config: Any) -> None:
    """Refuse before anything starts what would fail hours later."""
    from toolkit.fetch.client import check

    check(config)


def _print(tree: Any, as_json: bool, lines: Any) -> None:
    if as_json:
        typer.echo(json.dumps(tree, ensure_ascii=False, indent=2))
        return
    for line in lines(tree):
        typer.echo(line)


def main() -> None:
    """Run the command; turn errors into one paragraph and an exit code."""
    debug = "--debug" in sys.argv
    try:
        app(args=[a for a in sys.argv[1:] if a != "--debug"], prog_name="danqing")
    except Exception as error:
        if debug:
            raise
        typer.echo(f"danqing: {_told(error)}", err=True)
        sys.exit(2 if isinstance(error, UserError) else 1)


def _told(error: Exception) -> str:
    """Return the one paragraph that an error is shown as; what it quotes of files may be hostile."""
    from toolkit.data.visible import visible

    return visible(" ".join(_plain(error).split()))


def _plain(error: Exception) -> str:
    if isinstance(error, UserError | WorkError):
        return str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return (
            f"The system refused: {error.strerror or error}{where}. "
            "Nothing that was finished is lost; mend the cause and run again."
        )
    what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")
    return f"This is a defect of the toolkit: {what}. Run again with --debug for the trace, and report it."


if __name__ == "__main__":
    main()
