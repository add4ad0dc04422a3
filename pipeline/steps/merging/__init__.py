"""Steps of merging: fine-tune tasks from one base, stage their statistics, merge, and report."""
