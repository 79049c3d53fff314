"""What many tests share: real servers, a small use case, a project with a history."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
