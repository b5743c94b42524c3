"""The only package that imports ray: connecting, placing, processes, jobs."""
