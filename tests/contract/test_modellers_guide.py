"""The modeller's guide keeps its word: its example is an architecture, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor, nn

from datlstm.cli import app
from datlstm.models import ARCHITECTURES, Architecture, build, configure, frames
from datlstm.settings import PositiveInt

GUIDE = (Path(__file__).parents[2] / "docs" / "modeller.md").read_text()


class Cell(nn.Module):
    """The cell that the guide leaves to its reader."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels + hidden, hidden, 3, padding=1)
        self.hidden = hidden

    def forward(self, maps: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            state = maps.new_zeros(len(maps), self.hidden, *maps.shape[2:])
        return self.mix(torch.cat([maps, state], dim=1)).tanh()


def test_the_example_is_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datlstm.models.ARCHITECTURES", dict(ARCHITECTURES))
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    known = {"nn": nn, "Tensor": Tensor, "PositiveInt": PositiveInt, "Cell": Cell, "Architecture": Architecture}
    exec(example, {**vars(frames), **known, "ARCHITECTURES": __import__("datlstm.models").models.ARCHITECTURES})
    config = configure("linear-rnn", "operational", height=5, width=7, lead_frames=3, hidden=4, direct_leads=3)
    given = torch.randn(2, 4, 1, 5, 7)
    torch.testing.assert_close(build("linear-rnn", config)(given, 3), given[:, -1:].expand(-1, 3, -1, -1, -1))


@pytest.mark.parametrize("line", re.findall(r"^(?:`|)datlstm [a-z].*$", GUIDE, re.MULTILINE))
def test_a_command_of_the_guide_exists_with_its_options(line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line.split("`")[1] if line.startswith("`") else line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
