"""The escape suite: attacks that are shipped, and what runs and judges them.

* ``plugin/`` and ``bystander/`` are plugins. They run in sandboxes and are never imported here.
* A sandbox is not asked what it stops: the attacks are made, and what came of them is reported.

Source: feature IS10.
"""
