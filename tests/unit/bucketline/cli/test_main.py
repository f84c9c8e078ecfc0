"""The list of commands: quick, complete and consistent with the commands."""

import subprocess
import sys
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from bucketline.cli.dlq import MAX_RECORDS
from bucketline.cli.gc import MIN_GRACE_HOURS
from bucketline.cli.main import ENTRIES, Entry, app, load_command
from bucketline.db.blobs import MIN_GRACE
from bucketline.kafka.dead_letters import MAX_RECORDS as MAX_RECORDS_OF_LIBRARY

HEAVY = ("motor", "pymongo", "aiokafka", "faststream", "aiohttp", "aioboto3", "pydantic", "fastapi", "opentelemetry")


def test_help_imports_no_client_library() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bucketline.cli.main import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_help_of_each_command_imports_no_client_library() -> None:
    """Each takes a tenth of a second and more; pydantic alone is Typer's own."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bucketline.cli.main import ENTRIES, load_command\n"
        "from bucketline.cli.main import app\n"
        "for entry in ENTRIES:\n"
        "    for sub in ([], *([name] for name in getattr(load_command(entry), 'commands', {}))):\n"
        "        result = CliRunner().invoke(app, [entry.name, *sub, '--help'])\n"
        "        assert result.exit_code == 0, result.output\n"
        f"        found = {{*{HEAVY!r}, 'pydantic_settings', 'orjson'}} & set(sys.modules) - {{'pydantic'}}\n"
        "        if found:\n"
        "            sys.exit(f'{entry.name} {sub}: {sorted(found)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_limits_of_options_equal_those_of_the_library() -> None:
    assert timedelta(hours=MIN_GRACE_HOURS) == MIN_GRACE
    assert MAX_RECORDS == MAX_RECORDS_OF_LIBRARY


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert {entry.name for entry in ENTRIES} <= set(shown.split())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_help_of_a_command_begins_like_its_entry_in_the_list(entry: Entry) -> None:
    command = load_command(entry)
    first = (command.help or "").replace("\n", " ")
    assert first.startswith(entry.help.rstrip(".")), first


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_help_of_every_command_has_an_example(entry: Entry) -> None:
    command = load_command(entry)
    for one in [command, *getattr(command, "commands", {}).values()]:
        assert "Example: [cyan]" in (one.help or ""), one.name


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output
