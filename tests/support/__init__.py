"""Tools of the tests: a reader, a receiver, a runner. None shares code with the product."""
