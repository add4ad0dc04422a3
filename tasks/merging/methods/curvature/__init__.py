"""Methods that read statistics of the tasks: Fisher information or inputs of layers."""
