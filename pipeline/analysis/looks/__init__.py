"""What teachers and judges say of held-out prompts, where no task grades."""
