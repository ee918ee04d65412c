"""How good what models make is: clips against references, the tiny model by a judge, one backend against another."""
