"""`avec bench paper`: the tables and figures of the paper that AVEC follows, measured, beside the paper's own values.

The application is the OpenPose example of AVEC's repository, the same natively and under AVEC. Source: J. Kennedy,
B. Varghese, C. Reaño, "AVEC: Accelerator Virtualization in Cloud-Edge Computing for Deep Learning Libraries", 2021.
"""
