"""What people and Prometheus see of a run while it is under way.

::

    console   the progress line and the closing table of a terminal
    page      where the live page is served
    families  the name of every metric of Prometheus, its labels and its meaning
    metrics   how the reports of workers become values of these
    health    health and metrics of one process over HTTP
    progress  how far a worker is behind, in events and by the clock
"""
