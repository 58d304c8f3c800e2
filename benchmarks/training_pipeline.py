"""What share of a training step the device waits for data: windows gathered on it, against the step they feed.

``python -m benchmarks.training_pipeline [--settings NAME] [--days 10000] [--batch 32]`` trains the settings' model on a
record of noise of the region's size, on the GPU if there is one, and prints milliseconds and their ratio.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from datlstm.ensemble import AnomalyForecaster, build_members
from datlstm.fitting import masked_loss
from datlstm.grid import Grid
from datlstm.inputs import Inputs, Record
from datlstm.settings import load_settings
from datlstm.training import effective_recipe, network_config

REPEATS = 15


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings")
    parser.add_argument("--days", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    settings = load_settings(arguments.settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(settings.training.threads)
    rows, columns = Grid.from_region(settings.region).shape
    chosen = settings.model
    noise = torch.randn(arguments.days, rows, columns)
    phase = torch.arange(arguments.days) / 365.2425 * 2 * np.pi % (2 * np.pi)
    record = Record(noise, torch.zeros(noise.shape, dtype=torch.uint8), phase).on(device)
    config = network_config(settings)
    recipe = effective_recipe(settings, config)
    members = build_members(chosen.name, config, recipe, chosen.input_days, chosen.lead_days)
    mask, damping = torch.ones(rows, columns, dtype=torch.bool), torch.full((chosen.lead_days, rows, columns), 0.9)
    model = AnomalyForecaster(members, recipe.channels, mask, damping, torch.linspace(35, 40, rows)).to(device)
    optimiser = torch.optim.AdamW(model.parameters())
    length = chosen.input_days + chosen.lead_days

    def gather() -> Inputs:
        starts = torch.randint(arguments.days - length, (arguments.batch,), device=device)
        return record.gather(starts, length)

    days = gather()

    def step() -> None:
        estimates = model(days.until(chosen.input_days))
        estimated = slice(-estimates.shape[2], None)
        loss = masked_loss(
            estimates, days.frames[:, estimated], days.observed[:, estimated], torch.ones((), device=device)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    data, work = _milliseconds(gather, device), _milliseconds(step, device)
    size = (record.anomaly.nbytes + record.ice.nbytes) / 2**20
    print(f"{device}, {recipe.members} members of {chosen.name}, {rows} x {columns} cells, record {size:.0f} MiB")
    print(
        f"gathering {arguments.batch} windows {data:.2f} ms, a step {work:.1f} ms: "
        f"data are {100 * data / (data + work):.2f} %"
    )


def _milliseconds(act: Callable[[], object], device: torch.device) -> float:
    act()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * median(times)


if __name__ == "__main__":
    main()
