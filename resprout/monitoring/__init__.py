"""What people and Prometheus see of a run while it is under way.

::

    console   the progress line and the closing table of a terminal
    page      the live page, health and metrics of one process over HTTP
    metrics   every metric of Prometheus, and how the reports of workers become its values
    progress  how far a worker is behind, in events and by the clock
"""
