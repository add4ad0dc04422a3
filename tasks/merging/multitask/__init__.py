"""Several tasks from one base: what each of them is, its fixed head, and what a merged network is worth on all."""
