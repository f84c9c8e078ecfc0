"""The list of commands: quick, complete, and saying what the commands themselves say."""

import subprocess
import sys
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from bucketline.cli.dlq import MAX_RECORDS
from bucketline.cli.gc import MIN_GRACE_HOURS
from bucketline.cli.lazy_group import ENTRIES, Entry, load_command
from bucketline.cli.main import app
from bucketline.db.blobs import MIN_GRACE
from bucketline.kafka.dead_letter_admin import MOST

HEAVY = ("motor", "pymongo", "aiokafka", "faststream", "aiohttp", "aioboto3", "pydantic", "fastapi", "opentelemetry")


def test_the_list_of_commands_loads_no_client_of_anything() -> None:
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


def test_help_of_a_command_loads_no_client_of_anything() -> None:
    """Each takes a tenth of a second and more; pydantic alone is Typer's own."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bucketline.cli.lazy_group import ENTRIES, load_command\n"
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


def test_limits_of_commands_are_those_of_the_library() -> None:
    assert timedelta(hours=MIN_GRACE_HOURS) == MIN_GRACE
    assert MAX_RECORDS == MOST


def test_every_command_is_listed() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(entry.name in shown for entry in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_command_says_of_itself_what_the_list_says(entry: Entry) -> None:
    command = load_command(entry)
    first = (command.help or "").replace("\n", " ")
    assert first.startswith(entry.help.rstrip(".")), first


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_shows_an_example(entry: Entry) -> None:
    command = load_command(entry)
    for one in [command, *getattr(command, "commands", {}).values()]:
        assert "Example: [cyan]" in (one.help or ""), one.name


def test_a_command_that_does_not_exist_is_an_error_of_the_caller() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output
