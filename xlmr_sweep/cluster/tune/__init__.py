"""The Tune run, and every private name of Tune that it uses."""
