"""What people and Prometheus see of a run while it is under way.

::

    console   the progress line and the closing table of a terminal
    page      the live page, health and metrics of one process over HTTP
    metrics   every metric of Prometheus, and how the reports of workers become its values
    progress  how far workers are: their lag, the logs of their progress, and what they wait for
"""
