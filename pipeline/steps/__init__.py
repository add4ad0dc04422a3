"""The kinds of steps. Each module declares a configuration, the function that loads, calls `tasks` and saves, its kind.

Plans and help pages import these modules, and must start within a second. So what stands at the top of a module is
light, and a function imports torch, and all that needs it, when it runs; types that need it are imported for type
checkers alone.
"""
