"""The embedded model ``nano-sd``: SD-1.5's topology at small width, trained on menagerie.

``architecture`` needs nothing but torch and diffusers and is all that is used at run time (the
untrained twin is made by it); the other modules train and export the model.
"""
