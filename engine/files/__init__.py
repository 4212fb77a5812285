"""Files and folders of the machine: bounded reading of what others wrote, private folders of ours.

It does not know what the files mean. Readers of a format ask here for bytes and decide on their
own; caches ask for a folder that nobody else can write.
"""
