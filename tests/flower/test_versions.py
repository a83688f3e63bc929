"""The commands that the notebooks 10 and 11 use are those of the versions that are installed.

Where a test fails: read what the package has changed, try every command of the notebook, and correct the notebook, the
list of options here, and the version in pyproject.toml.
"""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clean_machine import ROOT

BIN = Path(sys.executable).parent
COMMANDS = {
    "flower-superlink": "flwr 10 --insecure --host --port --simulation --disable-runtime-dependency-installation "
    "--ssl-certfile --ssl-keyfile --ssl-ca-certfile --enable-supernode-auth",
    "flower-supernode": "flwr 10 --insecure --superlink --port --node-config --root-certificates "
    "--auth-supernode-private-key",
    "flwr run": "flwr 10 --stream --run-config --federation-config",
    "flwr supernode": "flwr 10 register list",
    "flwr": "flwr 10 ls log stop",
    "dask scheduler": "distributed 11 --port",
    "dask worker": "distributed 11 --nthreads --resources",
    "torchrun": "torch 11 --nproc-per-node --nnodes --rdzv-endpoint",
}
"""Of each command: its package, the number of the notebook that uses it, and what its --help must name."""


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs {package}")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_that_its_notebook_uses(command, tmp_path, monkeypatch):
    package, number, *options = COMMANDS[command].split()
    version = installed(package)
    for name, value in (("FLWR_HOME", str(tmp_path)), ("FLWR_TELEMETRY_ENABLED", "0"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    program, *arguments = command.split()
    try:
        ran = subprocess.run([BIN / program, *arguments, "--help"], capture_output=True, text=True, timeout=300)
        missing = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", plain(ran.stdout))]
    except FileNotFoundError:
        missing = [program]
    assert not missing, (
        f"`{command}` of {package} {version} has no {missing}: correct notebook {number} and pyproject.toml"
    )


def plain(text: str) -> str:
    """Return text without colours, and every option in the one spelling of the two that Python's argparse takes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("_", "-")


def test_flower_is_the_minor_version_whose_commands_are_written_down():
    version = installed("flwr")
    pinned = re.search(r'"flwr\[simulation\]~=(\d+\.\d+)\.', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert version.startswith(f"{pinned}."), f"flwr {version} is installed, notebook 10 is written for {pinned}"


def test_flowers_programming_interface_is_the_one_that_is_used():
    version = installed("flwr")
    try:
        from flwr.app import ConfigRecord, Context, Message, Metadata, MetricRecord, RecordDict  # noqa: F401
        from flwr.clientapp import ClientApp  # noqa: F401
        from flwr.serverapp import Grid, ServerApp  # noqa: F401
        from flwr.serverapp.strategy import Strategy
    except ImportError as error:
        pytest.fail(f"flwr {version} has another interface ({error}): correct gmfl_lite/flower/app.py and its strategy")
    assert {"get_nodes", "send_and_receive"} <= set(dir(Grid)), f"flwr {version}: correct gmfl_lite/flower/strategy.py"
    steps = {"configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary"}
    assert Strategy.__abstractmethods__ == steps, f"flwr {version}: MetaFedAvg must have other methods"


def test_flowers_secure_aggregation_is_for_its_older_interface_alone():
    """Notebook 10 says so. Where this fails, try to switch it on for MetaFedAvg, and correct the notebook."""
    installed("flwr")
    from flwr import clientapp
    from flwr.app import Context, RecordDict
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.serverapp.strategy import Strategy

    assert not [name for name in dir(clientapp.mod) if "secagg" in name]
    assert not hasattr(Strategy, "configure_fit"), "what the workflow calls"
    with pytest.raises(TypeError, match="Expect a LegacyContext, but get Context"):
        SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)(None, Context(1, 1, {}, RecordDict(), {}))
