"""A request's routes: resolved, held, in force."""
