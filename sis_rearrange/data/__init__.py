"""Pictures as people have them: folders, archives and data sets by strangers, made ready to be trained on.

Everything is read where it lies: nothing is ever extracted to disk, names inside archives are only names, sizes that
an archive claims are not believed, and what a file expands to is bounded before it is expanded.
"""
