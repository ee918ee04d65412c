"""How the work of one run is shared by many processes: integers and protocols only."""
