"""Shared helpers of the tests: real servers, small use cases, bundles, a project with a history, waits."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
