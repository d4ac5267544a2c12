"""What each component costs by its size, and a simulation of an experiment at scale from that.

    python -m benchmarks.scale [COMPONENT[:N] ...]     measures; N is the place of a size, from 0
    python -m benchmarks.simulation                    predicts (benchmarks/scale/world.py)

Each component is measured at four sizes. Three calibrate the simulation, the fourth is predicted
and compared. benchmarks/scale.json has for each component and size the medians of what was
measured, and the machine's load meanwhile. Seconds are CPU seconds where a name ends in `cpu`.
"""
