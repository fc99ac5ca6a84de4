# Optional parts: AUTO takes what is there, ON makes its absence an error, OFF leaves it out. Each prints one line, which build_info() repeats.

include(NeoxCuda)

include(NeoxNccl)

include(NeoxMpi)
