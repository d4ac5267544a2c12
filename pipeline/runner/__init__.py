"""The plan in DVC: written, run, restored, kept small."""
