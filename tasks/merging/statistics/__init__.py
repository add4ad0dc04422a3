"""Statistics of a network on a stream of examples, as sums that add up over any split of the stream."""
