"""Steps of experiments on fusion: train members, stage, match, fuse, fine-tune, report."""
