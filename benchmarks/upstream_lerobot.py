"""Does lerobot's own `LeRobotDataset` load what `wsrl-kit export-lerobot` writes, and the kit what lerobot records?

    python benchmarks/upstream_lerobot.py make FOLDER   # with wsrl_kit
    python benchmarks/upstream_lerobot.py check FOLDER  # with lerobot
    python benchmarks/upstream_lerobot.py back FOLDER   # with wsrl_kit

`make` exports noise. `check` compares every row, iterates in shuffled batches with future actions, merges and splits by
lerobot's own tools, and records the rows again by lerobot's `add_frame`. `back` reads both, and compares transitions.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

STATE, ACTION, CAMERAS, RATE, TASK = 19, 6, {"wrist_1": (32, 32, 3), "wrist_2": (24, 32, 3)}, 10, "insert the peg"


def make(folder: Path) -> None:
    from wsrl_kit.data.dataset import Dataset
    from wsrl_kit.data.formats.lerobot_write import write_lerobot
    from wsrl_kit.data.trajectory import Trajectory

    random = np.random.default_rng(0)
    trajectories = [
        Trajectory(
            observations=random.normal(size=(length + 1, STATE)).astype(np.float32),
            actions=random.uniform(-1, 1, (length, ACTION)).astype(np.float32),
            rewards=(np.arange(length) == length - 1).astype(np.float32) * success,
            terminated=success,
            truncated=not success,
            success=success,
            images={name: random.integers(0, 256, (length + 1, *shape), np.uint8) for name, shape in CAMERAS.items()},
        )
        for length, success in ((7, True), (5, False), (9, True))
    ]
    dataset = Dataset.from_trajectories(trajectories)
    write_lerobot(folder / "kit", dataset, RATE, TASK)
    rows = {name: getattr(dataset, name) for name in ("observations", "actions", "rewards", "terminated", "truncated")}
    images = {name: frames[dataset.frame_of_row] for name, frames in dataset.images.items()}
    np.savez(folder / "expected.npz", **rows, **images)


def check(folder: Path) -> None:
    import torch
    from lerobot.datasets.dataset_tools import merge_datasets, split_dataset
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    expected = np.load(folder / "expected.npz")
    dataset = LeRobotDataset("kit/kit", root=folder / "kit")
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (21, 3, RATE)
    copy = LeRobotDataset.create("kit/copy", RATE, own_features(dataset), root=folder / "lerobot", use_videos=False)
    for number, row in enumerate(dataset):
        for name, key in (("observations", "observation.state"), ("actions", "action"), ("rewards", "next.reward")):
            np.testing.assert_array_equal(row[key].numpy(), expected[name][number])
        assert row["next.done"].item() == (expected["terminated"] | expected["truncated"])[number]
        for camera in CAMERAS:
            levels = (row[f"observation.images.{camera}"].permute(1, 2, 0) * 255).round().to(torch.uint8)
            np.testing.assert_array_equal(levels.numpy(), expected[camera][number])
        assert row["task"] == TASK
        recorded = {key: as_recorded(row[key], feature) for key, feature in own_features(dataset).items()}
        copy.add_frame(recorded | {"task": TASK})
        if row["next.done"]:
            copy.save_episode()
    copy.finalize()
    for key in ("observation.state", "action"):
        rows = torch.stack([row[key] for row in dataset]).numpy()
        np.testing.assert_allclose(dataset.meta.stats[key]["mean"], rows.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(dataset.meta.stats[key]["std"], rows.std(axis=0), atol=1e-5)
    pictures = torch.stack([row["observation.images.wrist_1"] for row in dataset]).numpy()
    np.testing.assert_allclose(
        dataset.meta.stats["observation.images.wrist_1"]["mean"], pictures.mean((0, 2, 3))[:, None, None], atol=1e-5
    )
    future = LeRobotDataset("kit/kit", root=folder / "kit", delta_timestamps={"action": [0, 0.1, 0.2]})
    batches = list(torch.utils.data.DataLoader(future, batch_size=8, shuffle=True))
    assert batches[0]["action"].shape == (8, 3, ACTION) and sum(len(batch["index"]) for batch in batches) == 21
    merged = merge_datasets([dataset, dataset], "kit/merged", folder / "merged")
    parts = split_dataset(dataset, {"train": [0, 2], "rest": [1]}, folder / "parts")
    assert len(merged) == 42 and len(parts["train"]) == 16
    print("lerobot loads, iterates, merges and splits what the kit wrote, and recorded it again")


def own_features(dataset: Any) -> dict[str, Any]:
    """Those that a recording gives; lerobot adds the others."""
    own = ("timestamp", "frame_index", "episode_index", "index", "task_index")
    return {key: feature for key, feature in dataset.features.items() if key not in own}


def as_recorded(value: Any, feature: dict[str, Any]) -> np.ndarray:
    if feature["dtype"] == "image":
        return (value.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    return value.numpy().reshape(feature["shape"])


def back(folder: Path) -> None:
    from wsrl_kit.data.sources import load_sources

    expected = np.load(folder / "expected.npz")
    # The last step of the truncated episode has no next observation in either.
    kept = np.delete(np.arange(21), 11)
    for name in ("kit", "lerobot"):
        found = load_sources(str(folder / name))
        for column in ("observations", "actions", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(found, column), expected[column][kept])
        for camera in CAMERAS:
            np.testing.assert_array_equal(found.images[camera][found.frame_of_row], expected[camera][kept])
    print("the kit reads what it wrote, and what lerobot recorded of it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("make", "check", "back"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    {"make": make, "check": check, "back": back}[options.part](options.folder)
