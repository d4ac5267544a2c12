"""Buys the teacher's answers while a rollout still runs: a process that stage rollout starts."""
