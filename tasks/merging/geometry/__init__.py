"""The algebra of merging: metrics, bases, the solver, signs and spheres."""
